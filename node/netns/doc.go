// Package netns gives every sandbox a network of its own.
//
// A sandbox gets a network namespace that holds lo and eth0. eth0 is one end of
// a veth pair; the other end, sb-<slot>, stays with the host and is the
// sandbox's gateway and resolver. There is no bridge: each pair is a wire
// between exactly two ends, so one sandbox never sees a frame of another.
// Everything about a pair follows from its [Slot], a small number: its names,
// its addresses (a /30 of the prefix), its hardware addresses and the file that
// keeps the namespace alive. Kernel objects are therefore their own record.
// [Open] finds what an earlier life of the server left, keeps the slots it is
// told to keep and removes the rest, and needs no file for it.
//
// # What is allowed
//
// One nftables table per instance holds the rules for all slots. A sandbox
// reaches the internet, unless it was put offline, and its resolver. It reaches
// neither the host, nor another sandbox, nor a private, shared or link-local
// address (cloud metadata above all). It is refused at once rather than left
// to wait: TCP gets a reset, everything else an ICMP answer. A packet whose
// source is not the slot's own address is dropped before anything looks at it.
// Nobody reaches a sandbox but the host itself. Putting a sandbox offline works
// on packets and not on connections, so it also cuts those that exist. All of
// this lives in the kernel and outlasts the server; while the server lives it
// looks every few seconds whether somebody flushed the rules, and puts them back.
//
// # Names
//
// The resolver of a sandbox is its gateway address. The kernel sends UDP and
// TCP port 53 of that address on to one resolver of the host, which is
// the only way to an address that is otherwise forbidden.
//
// # IPv6
//
// There is none yet: eth0 has no IPv6 address and everything that a sandbox
// sends over IPv6 is dropped. Only ::1 exists, because programs that listen on
// "localhost" often mean it.
//
// # Ahead of time
//
// Making a namespace takes a few milliseconds and removing one some tens, so
// both are done off the path of requests: Ready slots wait to be taken, and
// released ones are removed in the background. A namespace is used once. gVisor
// takes eth0 over and what ran inside was hostile, so nothing of it is reused;
// even its number comes round again only after all others.
//
// # Locks
//
//	Network.mu   which slot is in which state; never held over a system call
//	firewall.mu  what the kernel's sets hold; held over the transaction that
//	             changes them, so that the two cannot disagree
//
// Neither is taken while the other is held.
package netns
