// Package soulbox holds the nouns of the house: the sandbox and how it lives
// and ends, the template it is made of, the team that owns it, the key that
// opens the door, and the errors that every room agrees on.
//
// The nouns know nothing. This package does no I/O and imports only the
// standard library; it carries the vocabulary and its rules (state tables,
// name rules, limits). Foreign shapes — E2B's JSON, SQL rows, gVisor specs —
// stop at the wall of the room that speaks to them, and become nouns there.
//
// docs/ARCHITECTURE.md draws the rooms around it.
package soulbox
