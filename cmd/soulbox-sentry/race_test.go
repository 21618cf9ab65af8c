//go:build race

package main

func init() { race = true } //nolint:gochecknoinits // what a build tag says
