package main

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox/client"
)

// A listing is a verb that prints what there is of a noun T: as a table, or as
// a list of J.
type listing[T, J any] struct {
	short string
	head  []string // of the table, which has a row for each of rows
	ask   func(ctx context.Context, api *client.Client, args []string) ([]T, error)
	rows  func([]T) [][]string
	json  func(T) J
	foot  func([]T) string // printed below the table for people; nil: nothing is
}

// lsVerb makes the verb. It has no flag but --json, and takes no arguments.
func lsVerb[T, J any](c *cli, l listing[T, J]) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   l.short,
		Args:    noArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		wait := c.progress("asking the server")
		defer wait.stop()
		items, err := l.ask(ctx, api, args)
		if err != nil {
			return err
		}
		wait.stop()
		if *asJSON {
			list := []J{}
			for _, item := range items {
				list = append(list, l.json(item))
			}
			return c.json(list)
		}
		if err := c.table(l.head, l.rows(items)); err != nil || l.foot == nil || !c.outTTY {
			return err
		}
		return c.print("%s", l.foot(items))
	})
	return cmd
}

// rowsOf returns a listing's rows of things that have nothing to do with each
// other.
func rowsOf[T any](row func(T) []string) func([]T) [][]string {
	return func(items []T) [][]string {
		var rows [][]string
		for _, item := range items {
			rows = append(rows, row(item))
		}
		return rows
	}
}

// collect returns all that a loop over pages gives, or its error.
func collect[T any](pages iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for item, err := range pages {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}
