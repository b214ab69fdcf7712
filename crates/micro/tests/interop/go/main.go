// Command peer is what a Go programmer writes against the .proto files that our contracts print:
// a client of our services, and a server for our clients. The tests read what it prints.
//
// The packages kindsv1 and probe are generated when the tests run.
package main

import (
	"fmt"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	run := map[string]func([]string) error{
		"client":          client,
		"server":          server,
		"reflect":         reflection,
		"watch":           watch,
		"go-micro-client": goMicroClient,
		"go-micro-server": goMicroServer,
	}[os.Args[1]]
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// say prints one thing that the test compares.
func say(name string, values ...any) {
	fmt.Printf("%s:", name)
	for _, value := range values {
		fmt.Printf(" %v", value)
	}
	fmt.Println()
}
