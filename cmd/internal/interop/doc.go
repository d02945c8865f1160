// Package interop holds the tests that try whole broker processes with Kafka
// clients of others, from outside: kcat, which is librdkafka, beside franz-go.
//
// They need a program that is not part of a Go installation, so they run with
// `make interop` and not with `make test`. They install it themselves where that
// is possible (Debian's and Ubuntu's package kcat), or fail and say how.
package interop
