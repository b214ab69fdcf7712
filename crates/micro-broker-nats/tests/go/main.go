// A go-micro v2 program with its NATS broker: it says what it receives, and publishes a line of its input as
// a message.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/micro/go-micro/v2/broker"
	"github.com/micro/go-micro/v2/broker/nats"
)

func check(err error) {
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(1)
	}
}

func main() {
	messages := nats.NewBroker(broker.Addrs(os.Args[1]))
	check(messages.Init())
	check(messages.Connect())
	said := func(who string) broker.Handler {
		return func(event broker.Event) error {
			m := event.Message()
			fmt.Println(who, event.Topic(), m.Header["Micro-Id"], m.Header["Tenant"], m.Header["Content-Type"], string(m.Body))
			return nil
		}
	}
	_, err := messages.Subscribe("from.rust", said("group"), broker.Queue("shared"))
	check(err)
	_, err = messages.Subscribe("also.from.rust", said("alone"))
	check(err)
	fmt.Println("ready")
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		check(messages.Publish("from.go", &broker.Message{
			Header: map[string]string{"Micro-Id": input.Text(), "Tenant": "acme", "Content-Type": "text/plain"},
			Body:   []byte("tea"),
		}))
	}
	check(messages.Disconnect())
}
