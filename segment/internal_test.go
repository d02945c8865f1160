package segment

import (
	"bytes"
	"testing"
)

func TestInternalFrames(t *testing.T) {
	for kind := KindNoop; kind.Known(); kind++ {
		frame := EncodeInternal(kind, 42, []byte("content"))
		Stamp(frame, 42, 9)
		h, err := DecodeHeader(frame)
		if err != nil || h.Kind() != KindInternal || h.NextOffset() != 42 || h.BaseOffset != 42 || h.LastOffset() != 41 ||
			h.Term() != 9 || h.Idempotent() || h.LastSequence() != -1 || !ChecksumOK(frame) {
			t.Errorf("%s: header %+v, %v", kind, h, err)
		}
		got, payload, err := DecodeInternal(frame)
		if err != nil || got != kind || string(payload) != "content" {
			t.Errorf("%s decodes to %s %q, %v", kind, got, payload, err)
		}
		if records, err := Records(frame, 1<<20); len(records) != 0 || err != nil {
			t.Errorf("%s has records %v, %v", kind, records, err)
		}
		if franz, err := franzRecords(frame); len(franz) != 0 || err != nil {
			t.Errorf("%s: franz-go reads %v, %v", kind, franz, err)
		}
		if same, err := Inflate(frame, 0); err != nil || !bytes.Equal(same, frame) {
			t.Errorf("%s inflates to %x, %v", kind, same, err)
		}
	}
}

// TestDecodeInternalRefuses checks frames that are not internal, or not whole;
// a kind of a later version is for the caller to judge.
func TestDecodeInternalRefuses(t *testing.T) {
	if kind, payload, err := DecodeInternal(EncodeInternal(200, 0, []byte("x"))); kind != 200 || kind.Known() || string(payload) != "x" || err != nil {
		t.Errorf("unknown kind: %v %q %v", kind, payload, err)
	}
	tests := []struct {
		name  string
		frame []byte
	}{
		{"nothing", nil},
		{"records", Build(threeRecords(), BuildOptions{})},
		{"kind of records", EncodeInternal(KindRecords, 0, nil)},
		{"kind without a name", EncodeInternal(KindInternal, 0, nil)},
		{"cut off", EncodeInternal(KindNoop, 0, nil)[:HeaderSize+1]},
		{"with a tail", append(EncodeInternal(KindNoop, 0, nil), 0)},
		{"another version", altered(EncodeInternal(KindNoop, 0, nil), HeaderSize, 2)},
		{"with a codec", altered(EncodeInternal(KindNoop, 0, nil), atAttributes+1, 4)},
	}
	bare := EncodeInternal(KindNoop, 0, nil)[:HeaderSize]
	set32(atLength, minLength)(bare)
	tests = append(tests, struct {
		name  string
		frame []byte
	}{"without a kind", recrc(bare)})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := DecodeInternal(tt.frame)
			wantReason(t, err, Corrupt)
		})
	}
}

// altered changes a byte of a frame and makes the CRC right.
func altered(frame []byte, at int, value byte) []byte {
	frame[at] = value
	return recrc(frame)
}

func TestVoid(t *testing.T) {
	for code := VoidDuplicate; code <= VoidDuplicateTooOld; code++ {
		want := Void{Code: code, Offset: Offset(code) - 3}
		kind, payload, err := DecodeInternal(EncodeVoid(7, want))
		if kind != KindVoid || err != nil {
			t.Fatalf("%s, %v", kind, err)
		}
		if got, err := DecodeVoid(payload); got != want || err != nil {
			t.Errorf("%+v decodes to %+v, %v", want, got, err)
		}
		if code.String() == "" {
			t.Errorf("code %d has no name", code)
		}
	}
	for _, payload := range [][]byte{nil, {1}, {0, 0, 0, 0, 0, 0, 0, 0, 0}, {7, 0, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 10)} {
		_, err := DecodeVoid(payload)
		wantReason(t, err, Corrupt)
	}
	if got := VoidCode(9).String(); got != "void code 9" {
		t.Errorf("unknown code is %q", got)
	}
	for kind, want := range map[Kind]string{KindRecords: "records", KindInternal: "internal", 9: "kind 9"} {
		if kind.String() != want {
			t.Errorf("kind %d is %q", kind, kind)
		}
	}
}

func TestTrim(t *testing.T) {
	want := Trim{Start: 1 << 40, Through: 77}
	kind, payload, err := DecodeInternal(EncodeTrim(7, want))
	if kind != KindTrim || err != nil {
		t.Fatalf("%s, %v", kind, err)
	}
	if got, err := DecodeTrim(payload); got != want || err != nil {
		t.Errorf("%+v decodes to %+v, %v", want, got, err)
	}
	for _, payload := range [][]byte{nil, make([]byte, 15), make([]byte, 17), append([]byte{0x80}, make([]byte, 15)...)} {
		_, err := DecodeTrim(payload)
		wantReason(t, err, Corrupt)
	}
}
