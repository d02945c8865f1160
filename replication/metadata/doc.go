// Package metadata is the state machine of the metadata group.
package metadata
