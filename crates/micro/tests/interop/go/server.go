package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"micro.test/interop/kindsv1"
	"micro.test/interop/probe"
)

// server answers the contracts until its standard input ends.
func server([]string) error {
	server := grpc.NewServer()
	probe.RegisterProbeServer(server, prober{})
	kindsv1.RegisterKindsServer(server, mirror{})
	return serve(server)
}

func serve(server *grpc.Server) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go func() {
		// Whoever started it is gone, whatever became of it.
		io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	return server.Serve(listener)
}

type prober struct {
	probe.UnimplementedProbeServer
}

func (prober) Echo(ctx context.Context, ping *probe.Ping) (*probe.Ping, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	out := metadata.Pairs("x-node", "stranger")
	for _, tenant := range in.Get("x-tenant") {
		out.Append("x-tenant-seen", tenant)
	}
	for _, raw := range in.Get("x-raw-bin") {
		out.Append("x-raw-bin", raw)
	}
	if err := grpc.SetHeader(ctx, out); err != nil {
		return nil, err
	}
	return ping, nil
}

func (prober) Sleep(ctx context.Context, ping *probe.Ping) (*probe.Ping, error) {
	select {
	case <-time.After(time.Duration(ping.Number) * time.Millisecond):
		return ping, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (prober) Fail(_ context.Context, ping *probe.Ping) (*probe.Ping, error) {
	return nil, status.Error(codes.Code(ping.Number), ping.Text)
}

func (prober) Count(ping *probe.Ping, stream grpc.ServerStreamingServer[probe.Ping]) error {
	for number := uint64(0); number < ping.Number; number++ {
		if err := stream.Send(&probe.Ping{Text: ping.Text, Number: number}); err != nil {
			return err
		}
	}
	if ping.Text == "fail" {
		return status.Error(codes.DataLoss, "after the last one")
	}
	return nil
}

func (prober) Sum(stream grpc.ClientStreamingServer[probe.Ping, probe.Ping]) error {
	sum := &probe.Ping{}
	for {
		ping, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(sum)
		}
		if err != nil {
			return err
		}
		sum.Number += ping.Number
	}
}

func (prober) Chat(stream grpc.BidiStreamingServer[probe.Ping, probe.Ping]) error {
	for {
		ping, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if ping.Text == "stop" {
			return status.Error(codes.Aborted, "stopped")
		}
		if err := stream.Send(ping); err != nil {
			return err
		}
	}
}

func (prober) Left(ctx context.Context, _ *probe.Ping) (*probe.Ping, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil, status.Error(codes.FailedPrecondition, "there is no deadline")
	}
	left := time.Until(deadline).Milliseconds()
	return &probe.Ping{Text: strconv.FormatInt(left, 10)}, nil
}

type mirror struct {
	kindsv1.UnimplementedKindsServer
}

func (mirror) Echo(ctx context.Context, everything *kindsv1.Everything) (*kindsv1.Everything, error) {
	isFull := strconv.FormatBool(proto.Equal(everything, full()))
	return everything, grpc.SetHeader(ctx, metadata.Pairs("x-is-full", isFull))
}

func (mirror) Refuse(_ context.Context, inner *kindsv1.Inner) (*kindsv1.Inner, error) {
	return nil, status.FromProto(&spb.Status{
		Code:    int32(codes.NotFound),
		Message: inner.Name,
		Details: []*anypb.Any{{TypeUrl: "type.googleapis.com/kinds.v1.Why", Value: []byte("\n\x03why")}},
	}).Err()
}
