package client_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/client/clienttest"
)

// Example starts a sandbox, writes a script into it, runs it and reads the
// result. It uses a stand-in server; with a real one, take the URL and the key
// that `soulbox env` prints.
func Example() {
	home, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(home)
	server := clienttest.New(home)
	defer server.Close()

	if err := example(context.Background(), server.URL, clienttest.Key); err != nil {
		panic(err)
	}
	// Output:
	// hello from a sandbox
	// exit status 3
}

func example(ctx context.Context, url, key string) error {
	c, err := client.New(client.Options{APIURL: url, APIKey: key})
	if err != nil {
		return err
	}
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer box.Kill(context.WithoutCancel(ctx)) // it would end by itself in five minutes

	if err := box.WriteFile(ctx, "hello.sh", strings.NewReader("echo hello from $1")); err != nil {
		return err
	}
	result, err := box.Run(ctx, "sh hello.sh 'a sandbox'", client.RunOptions{})
	if err != nil {
		return err
	}
	fmt.Print(result.Stdout)

	_, err = box.Run(ctx, "exit 3", client.RunOptions{})
	fmt.Println(err)
	return nil
}
