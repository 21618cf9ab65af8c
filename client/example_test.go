package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/soulbox/soulbox"
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

// ExampleTemplates_Build builds a template of a folder, shows what the build
// says, and starts a sandbox of the version that came of it.
func ExampleTemplates_Build() {
	home, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(home)
	server := clienttest.New(home)
	defer server.Close()

	if err := exampleBuild(context.Background(), server.URL, clienttest.Key, home); err != nil {
		panic(err)
	}
	// Output:
	// [base] FROM debian
	// [builder 1/1] RUN echo hello
	// [builder 1/1] [stdout]: hello
	// [finalize] packing
	// mine@1.0.0
}

func exampleBuild(ctx context.Context, url, key, dir string) error {
	c, err := client.New(client.Options{APIURL: url, APIKey: key})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM debian\nRUN echo hello\n"), 0o600); err != nil {
		return err
	}
	started, err := c.Templates.Build(ctx, "mine", client.BuildOptions{Dir: dir})
	if err != nil {
		return err
	}
	built, err := c.Templates.Wait(ctx, started.Template.ID, string(started.Build.ID), func(l soulbox.BuildLine) {
		if l.Level != "debug" {
			fmt.Println(l.Message)
		}
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s@%s\n", started.Template.Name, built.Version)

	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{Template: "mine"})
	if err != nil {
		return err
	}
	return box.Kill(ctx)
}
