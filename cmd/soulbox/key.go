package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox/client"
)

func keyCommand(c *cli) *cobra.Command {
	return group("key", "Make and revoke API keys",
		keyCreateCommand(c),
		keyLsCommand(c),
		keyRevokeCommand(c),
	)
}

func keyCreateCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make an API key and print it; it cannot be shown again",
		Args:  wantArgs(0, 1),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := "soulbox key create"
		if len(args) > 0 {
			name = args[0]
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		k, err := api.Keys.Create(cmd.Context(), name)
		if err != nil {
			return err
		}
		if *asJSON {
			return c.json(newKeyJSON(k))
		}
		return c.print("%s", clean(k.Secret))
	}
	return cmd
}

func keyLsCommand(c *cli) *cobra.Command {
	return lsVerb(c, listing[*client.Key, keyJSON]{
		short: "List API keys by what is known of them",
		head:  []string{"ID", "NAME", "KEY", "CREATED", "USED"},
		ask: func(ctx context.Context, api *client.Client, _ []string) ([]*client.Key, error) {
			return api.Keys.List(ctx)
		},
		rows: rowsOf(func(k *client.Key) []string {
			used := c.when(k.LastUsed)
			if used == "" && c.outTTY {
				used = "never"
			}
			return []string{k.ID, k.Name, "…" + k.Suffix, c.when(k.CreatedAt), used}
		}),
		json: newKeyJSON,
	})
}

func keyRevokeCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Aliases: []string{"rm"},
		Short:   "Make an API key useless from now on",
		Args:    wantArgs(1, 1),
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			return api.Keys.Revoke(ctx, args[0])
		}),
	}
}

// keyJSON is a key as --json prints it.
type keyJSON struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Key       string    `json:"key,omitempty"`
	Suffix    string    `json:"suffix"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero"`
}

func newKeyJSON(k *client.Key) keyJSON {
	return keyJSON{ID: k.ID, Name: k.Name, Key: k.Secret, Suffix: k.Suffix, CreatedAt: k.CreatedAt, LastUsed: k.LastUsed}
}
