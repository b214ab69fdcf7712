// A go-micro v2 program in the same etcd: it registers a node, says what it sees, and leaves when
// its input ends.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/micro/go-micro/v2/registry"
	"github.com/micro/go-micro/v2/registry/etcd"
)

func check(err error) {
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
}

func main() {
	etcds := etcd.NewRegistry(registry.Addrs(os.Args[1]))
	watcher, err := etcds.Watch(registry.WatchService("greeter"))
	check(err)
	go func() {
		for {
			result, err := watcher.Next()
			if err != nil {
				return
			}
			for _, node := range result.Service.Nodes {
				fmt.Println("event", result.Action, result.Service.Version, node.Id)
			}
		}
	}()
	service := &registry.Service{
		Name:    "greeter",
		Version: "latest",
		Endpoints: []*registry.Endpoint{{
			Name:    "Say.Hello",
			Request: &registry.Value{Name: "Request", Type: "Request"},
		}},
		Nodes: []*registry.Node{{
			Id:       "from-go",
			Address:  "10.0.0.9:80",
			Metadata: map[string]string{"protocol": "grpc"},
		}},
	}
	check(etcds.Register(service, registry.RegisterTTL(20*time.Second)))
	fmt.Println("registered")
	go func() {
		last := ""
		for {
			found, err := etcds.GetService("greeter")
			check(err)
			var nodes []string
			for _, version := range found {
				for _, node := range version.Nodes {
					nodes = append(nodes, fmt.Sprint(version.Version, "/", node.Id, "@", node.Address, "/", node.Metadata["zone"], "/", len(version.Endpoints)))
				}
			}
			sort.Strings(nodes)
			if now := strings.Join(nodes, " "); now != last {
				fmt.Println("found", now)
				last = now
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
	}
	check(etcds.Deregister(service))
	fmt.Println("left")
}
