// Package transport carries requests between the nodes of a cluster.
package transport
