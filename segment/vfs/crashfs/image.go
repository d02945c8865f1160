package crashfs

// pageSize is the unit of memory, of copying on write and of the space count.
const pageSize = 8 << 10

// page is a part of one or several images. A shared page is never written again:
// that makes a Sync, and a copy of the disk, a matter of pointers.
type page struct {
	data   *[pageSize]byte
	shared bool
}

// zeroPage is preallocated space.
var zeroPage = &page{data: new([pageSize]byte), shared: true}

// image is the content of a file: pages, nil for holes, and a length. Bytes
// behind the length are zero.
type image struct {
	pages []*page
	size  int64
}

// clone shares all pages.
func (m *image) clone() image {
	for _, p := range m.pages {
		if p != nil && !p.shared {
			p.shared = true
		}
	}
	return image{pages: append([]*page(nil), m.pages...), size: m.size}
}

// allocated is the space that the image takes.
func (m *image) allocated() int64 {
	n := int64(0)
	for _, p := range m.pages {
		if p != nil {
			n += pageSize
		}
	}
	return n
}

// readAt copies the bytes at off; the caller has checked the range.
func (m *image) readAt(p []byte, off int64) {
	for len(p) > 0 {
		n := min(len(p), int(pageSize-off%pageSize))
		if i := off / pageSize; i < int64(len(m.pages)) && m.pages[i] != nil {
			copy(p[:n], m.pages[i].data[off%pageSize:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+int64(n)
	}
}

// writeAt stores bytes and makes the image long enough.
func (m *image) writeAt(p []byte, off int64) {
	m.size = max(m.size, off+int64(len(p)))
	for len(p) > 0 {
		target := m.own(off / pageSize)
		n := copy(target.data[off%pageSize:], p)
		p, off = p[n:], off+int64(n)
	}
}

// copySector stores one sector of m in another image.
func (m *image) copySector(to *image, sector int64) {
	var b [sectorSize]byte
	m.readAt(b[:], sector*sectorSize)
	to.writeAt(b[:], sector*sectorSize)
}

// own returns page i for writing, copied or made if need be.
func (m *image) own(i int64) *page {
	m.extend(i + 1)
	switch p := m.pages[i]; {
	case p == nil || p == zeroPage:
		m.pages[i] = &page{data: new([pageSize]byte)}
	case p.shared:
		data := *p.data
		m.pages[i] = &page{data: &data}
	}
	return m.pages[i]
}

// extend makes room for n pages, as holes.
func (m *image) extend(n int64) {
	if missing := n - int64(len(m.pages)); missing > 0 {
		m.pages = append(m.pages, make([]*page, missing)...)
	}
}

// truncate sets the length and zeroes what lies behind it.
func (m *image) truncate(size int64) {
	if size < m.size {
		keep := (size + pageSize - 1) / pageSize
		if keep < int64(len(m.pages)) {
			clear(m.pages[keep:])
			m.pages = m.pages[:keep]
		}
		if i := size / pageSize; i < int64(len(m.pages)) && m.pages[i] != nil && m.pages[i] != zeroPage {
			clear(m.own(i).data[size%pageSize:])
		}
	}
	m.size = size
}

// reserve fills the holes of a range with preallocated pages.
func (m *image) reserve(off, length int64) {
	last := (off + length + pageSize - 1) / pageSize
	m.extend(last)
	for i := off / pageSize; i < last; i++ {
		if m.pages[i] == nil {
			m.pages[i] = zeroPage
		}
	}
	m.size = max(m.size, off+length)
}

// holes counts the pages of a range that a write or reservation would allocate.
func (m *image) holes(off, length int64) int64 {
	n := int64(0)
	for i := off / pageSize; i < (off+length+pageSize-1)/pageSize; i++ {
		if i >= int64(len(m.pages)) || m.pages[i] == nil {
			n++
		}
	}
	return n
}

// share makes pages [first, last) of to those of m.
func (m *image) share(to *image, first, last int64) {
	last = min(last, int64(len(m.pages)))
	if first >= last {
		return
	}
	to.extend(last)
	for i := first; i < last; i++ {
		if p := m.pages[i]; p != nil && !p.shared {
			p.shared = true
		}
		to.pages[i] = m.pages[i]
	}
}
