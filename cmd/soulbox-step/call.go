package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A call is one of those that BuildKit makes to its runtime, or one of our own.
type call struct {
	verb   string
	bundle string   // of run
	id     string   // of run, kill and delete
	rest   []string // what follows
}

// valued are the flags with a value that BuildKit uses.
var valued = []string{"--log", "--log-format", "--bundle"}

// parse reads what BuildKit's calls have: flags, the verb, its flags, an id.
func parse(args []string) (call, error) {
	var c call
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, whole := strings.Cut(arg, "=")
		switch {
		case !strings.HasPrefix(arg, "-") && c.verb == "":
			c.verb = arg
			if c.verb == "become" {
				c.rest = args
				return c, nil
			}
		case !strings.HasPrefix(arg, "-"):
			c.rest = append(c.rest, arg)
		case arg == "--keep" || arg == "--force":
			// What is left of a step is kept until it is deleted, in any case.
		case !slices.Contains(valued, name):
			return call{}, fmt.Errorf("unknown flag %.100q", arg)
		default:
			if !whole {
				if len(args) == 0 {
					return call{}, fmt.Errorf("%s has no value", name)
				}
				value, args = args[0], args[1:]
			}
			if name == "--bundle" {
				c.bundle = value
			}
		}
	}
	switch c.verb {
	case "run", "kill", "delete":
		if len(c.rest) == 0 || c.rest[0] == "" {
			return call{}, errors.New("the container's id is missing")
		}
		c.id, c.rest = c.rest[0], c.rest[1:]
	}
	return c, nil
}
