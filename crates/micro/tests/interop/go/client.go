package main

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"micro.test/interop/kindsv1"
	"micro.test/interop/probe"
)

// client calls everything at an address and prints what comes back.
func client(args []string) error {
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, call := range []func(context.Context, *grpc.ClientConn) error{
		unary, streams, failures, kinds,
	} {
		if err := call(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

func unary(ctx context.Context, conn *grpc.ClientConn) error {
	client := probe.NewProbeClient(conn)
	var header metadata.MD
	out := metadata.AppendToOutgoingContext(ctx, "X-Tenant", "acme")
	reply, err := client.Echo(out, &probe.Ping{Text: "föö", Number: 1<<64 - 1}, grpc.Header(&header))
	if err != nil {
		return err
	}
	say("echo", reply.Text, reply.Number)
	say("metadata", header.Get("x-tenant-seen"), header.Get("x-node"), header.Get("content-type"))

	big := strings.Repeat("x", 1<<20)
	reply, err = client.Echo(ctx, &probe.Ping{Text: big})
	if err != nil {
		return err
	}
	say("big", reply.Text == big)

	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err = client.Left(soon, &probe.Ping{})
	if err != nil {
		return err
	}
	left, err := strconv.Atoi(reply.Text)
	if err != nil {
		return err
	}
	say("left", 4000 < left && left <= 5000)
	return nil
}

func streams(ctx context.Context, conn *grpc.ClientConn) error {
	client := probe.NewProbeClient(conn)
	counting, err := client.Count(ctx, &probe.Ping{Text: "n", Number: 1000})
	if err != nil {
		return err
	}
	next := uint64(0)
	for ; ; next++ {
		ping, err := counting.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if ping.Number != next || ping.Text != "n" {
			say("count", "unexpected", ping)
		}
	}
	say("count", next)

	summing, err := client.Sum(ctx)
	if err != nil {
		return err
	}
	for number := uint64(1); number <= 100; number++ {
		if err := summing.Send(&probe.Ping{Number: number}); err != nil {
			return err
		}
	}
	sum, err := summing.CloseAndRecv()
	if err != nil {
		return err
	}
	say("sum", sum.Number)

	chat, err := client.Chat(ctx)
	if err != nil {
		return err
	}
	for number := uint64(0); number < 3; number++ {
		// Each reply before the next request: nothing is held back on the way.
		if err := chat.Send(&probe.Ping{Text: "chat", Number: number}); err != nil {
			return err
		}
		ping, err := chat.Recv()
		if err != nil {
			return err
		}
		say("chat", ping.Text, ping.Number)
	}
	if err := chat.CloseSend(); err != nil {
		return err
	}
	_, err = chat.Recv()
	say("chat ends", err)
	return nil
}

func failures(ctx context.Context, conn *grpc.ClientConn) error {
	client := probe.NewProbeClient(conn)
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		_, err := client.Fail(ctx, &probe.Ping{Text: "föö % \n", Number: uint64(code)})
		if status.Code(err) != code || status.Convert(err).Message() != "föö % \n" {
			say("fail", "unexpected", code, err)
		}
	}
	_, err := client.Fail(ctx, &probe.Ping{Text: "no such user", Number: uint64(codes.NotFound)})
	say("fail", status.Code(err), status.Convert(err).Message())
	_, err = client.Panic(ctx, &probe.Ping{Text: "secret"})
	say("panic", status.Code(err), strings.Contains(err.Error(), "secret"))

	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = client.Sleep(soon, &probe.Ping{Number: 10_000})
	say("deadline", status.Code(err))

	gone, leave := context.WithCancel(ctx)
	defer leave()
	counting, err := client.Count(gone, &probe.Ping{Number: 1 << 40})
	if err != nil {
		return err
	}
	if _, err := counting.Recv(); err != nil {
		return err
	}
	leave()
	for err == nil {
		_, err = counting.Recv()
	}
	say("cancelled", status.Code(err))

	_, err = client.Echo(ctx, &probe.Ping{Text: strings.Repeat("x", 5<<20)})
	say("too large", status.Code(err))
	_, err = client.Echo(ctx, &probe.Ping{Text: "x"}, grpc.UseCompressor(gzip.Name))
	say("gzip", status.Code(err))
	err = conn.Invoke(ctx, "/probe.Probe/Nothing", &probe.Ping{}, &probe.Ping{})
	say("unknown method", status.Code(err))
	err = conn.Invoke(ctx, "/probe.Nobody/Echo", &probe.Ping{}, &probe.Ping{})
	say("unknown service", status.Code(err))
	return nil
}

func kinds(ctx context.Context, conn *grpc.ClientConn) error {
	client := kindsv1.NewKindsClient(conn)
	var header metadata.MD
	out := metadata.AppendToOutgoingContext(ctx, "x-raw-bin", "\x00\xff")
	reply, err := client.Echo(out, full(), grpc.Header(&header))
	if err != nil {
		return err
	}
	say("kinds", proto.Equal(reply, full()), header.Get("x-is-full"))
	say("binary metadata", []byte(strings.Join(header.Get("x-raw-bin"), "")))

	_, err = client.Refuse(ctx, &kindsv1.Inner{Name: "no such inner"})
	refusal := status.Convert(err)
	say("refused", refusal.Code(), refusal.Message())
	for _, detail := range refusal.Proto().GetDetails() {
		say("detail", detail.GetTypeUrl(), detail.GetValue())
	}
	return nil
}

// full has a value that is not its default in every field.
func full() *kindsv1.Everything {
	return &kindsv1.Everything{
		Flag:        true,
		Int32:       -32,
		Int64:       -1 << 63,
		Uint32:      1<<32 - 1,
		Uint64:      1<<64 - 1,
		Float:       1.5,
		Double:      -2.25,
		Text:        "föö",
		Raw:         []byte{0, 255, 7},
		MaybeNumber: proto.Int32(0),
		MaybeText:   proto.String(""),
		Numbers:     []int64{0, -1, 1 << 40},
		Texts:       []string{"", "b"},
		Raws:        [][]byte{{}, {1}},
		Inner:       &kindsv1.Inner{Id: 1, Name: "one"},
		MaybeInner:  &kindsv1.Inner{},
		Inners:      []*kindsv1.Inner{{Id: 2, Name: "two"}, {}},
		Color:       kindsv1.Color_COLOR_RED,
		Colors:      []kindsv1.Color{kindsv1.Color_COLOR_DEEP_BLUE, kindsv1.Color_COLOR_UNSPECIFIED},
		ByName:      map[string]uint32{"a": 1, "": 0},
		ByNumber:    map[int32]*kindsv1.Inner{-1: {Id: 3, Name: "three"}},
		Took:        durationpb.New(3500 * time.Millisecond),
		At:          timestamppb.New(time.Unix(1_700_000_000, 25_000_000)),
		// What is a value in Rust, not an option, is always there.
		Next: &kindsv1.Everything{
			Text:  "next",
			Inner: &kindsv1.Inner{},
			Took:  &durationpb.Duration{},
		},
		Type: "keyword",
	}
}
