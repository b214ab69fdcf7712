// A go-micro v2 program in the same etcd: it locks and leads as it is told, and says what came of it.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/micro/go-micro/v2/sync"
	"github.com/micro/go-micro/v2/sync/etcd"
)

func main() {
	syncs := etcd.NewSync(sync.Nodes(os.Args[1]), sync.Prefix(os.Args[2]))
	leaders := map[string]sync.Leader{}
	said := func(what, name string, err error) {
		if err != nil {
			fmt.Println("failed", what, name, err)
			os.Exit(1)
		}
		fmt.Println(what, name)
	}
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		words := strings.Fields(input.Text())
		what, name := words[0], words[1]
		switch what {
		case "lock":
			said("locked", name, syncs.Lock(name, sync.LockTTL(10e9)))
		case "unlock":
			said("unlocked", name, syncs.Unlock(name))
		case "lead":
			leader, err := syncs.Leader(name)
			said("leads", name, err)
			leaders[name] = leader
			go func() {
				if <-leader.Status() {
					fmt.Println("lost", name)
				}
			}()
		case "resign":
			said("resigned", name, leaders[name].Resign())
		}
	}
}
