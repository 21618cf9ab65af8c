// Command listen accepts connections on the port that it is told.
package main

import (
	"net"
	"os"
)

func main() {
	l, err := net.Listen("tcp4", ":"+os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		c.Close()
	}
}
