package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"micro.test/interop/probe"
)

// go-micro's gRPC client and server are thin layers over grpc-go. What they add to the wire is
// done here by hand: the JSON codec, the headers, paths by the registry name, errors as JSON.

// jsonCodec is JSON as go-micro has it: protobuf's mapping for generated types, else Go's.
type jsonCodec struct{}

func (jsonCodec) Name() string { return "json" }

func (jsonCodec) Marshal(value any) ([]byte, error) {
	if message, ok := value.(proto.Message); ok {
		return protojson.Marshal(message)
	}
	return json.Marshal(value)
}

func (jsonCodec) Unmarshal(data []byte, value any) error {
	if message, ok := value.(proto.Message); ok {
		return protojson.Unmarshal(data, message)
	}
	return json.Unmarshal(data, value)
}

// ping is a message of a program without generated types.
type ping struct {
	Text   string `json:"text"`
	Number uint64 `json:"number"`
}

func goMicroClient(args []string) error {
	encoding.RegisterCodec(jsonCodec{})
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	// No deadline of gRPC's own, so that only go-micro's header can be what is honoured.
	with := func(timeout time.Duration) context.Context {
		return metadata.AppendToOutgoingContext(context.Background(),
			"timeout", strconv.FormatInt(timeout.Nanoseconds(), 10),
			"x-content-type", "application/grpc+json",
			"micro-from-service", "go.micro.srv.caller",
			"x-tenant", "acme")
	}
	asJSON := grpc.CallContentSubtype("json")

	for _, path := range []string{
		"/probe.Probe/Echo", "/any.pkg.Probe/Echo", "/Probe/Echo",
		"/any.pkg.Probe/Nothing", "/any.pkg.Nobody/Echo", "/any.pkg.Probe/Echo/More",
	} {
		var reply ping
		var header metadata.MD
		err := conn.Invoke(with(5*time.Second), path, &ping{"hello", 7}, &reply, asJSON, grpc.Header(&header))
		if err != nil {
			say(path, status.Code(err))
			continue
		}
		say(path, reply.Text, reply.Number, header.Get("content-type"), header.Get("x-tenant-seen"))
	}

	var reply ping
	if err := conn.Invoke(with(3*time.Second), "/any.pkg.Probe/Left", &ping{}, &reply, asJSON); err != nil {
		return err
	}
	left, err := strconv.Atoi(reply.Text)
	if err != nil {
		return err
	}
	say("left", 2000 < left && left <= 3000)
	begun := time.Now()
	err = conn.Invoke(with(200*time.Millisecond), "/any.pkg.Probe/Sleep", &ping{"", 10_000}, &reply, asJSON)
	took := time.Since(begun)
	say("timeout", status.Code(err), took < 2*time.Second)

	desc := &grpc.StreamDesc{ServerStreams: true}
	stream, err := conn.NewStream(with(5*time.Second), desc, "/any.pkg.Probe/Count", asJSON)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&ping{"n", 3}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var counted ping
		if err := stream.RecvMsg(&counted); err != nil {
			say("count ends", err)
			break
		}
		say("count", counted.Text, counted.Number)
	}

	err = conn.Invoke(with(5*time.Second), "/any.pkg.Probe/Fail", &ping{"no such user", 5}, &reply, asJSON)
	say("fail", status.Code(err), status.Convert(err).Message())

	// The content type of a program with generated types.
	var generated probe.Ping
	asProto := grpc.CallContentSubtype("proto")
	err = conn.Invoke(with(5*time.Second), "/any.pkg.Probe/Echo", &probe.Ping{Text: "hi", Number: 9}, &generated, asProto)
	say("proto", generated.Text, generated.Number, status.Code(err))
	return nil
}

// rawCodec leaves messages as they came.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// goMicroServer routes by the last part of the service's name, and fails as go-micro does.
func goMicroServer([]string) error {
	return serve(grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(goMicroHandler)))
}

func goMicroHandler(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	in, _ := metadata.FromIncomingContext(stream.Context())
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if parts := strings.Split(service, "."); !ok || parts[len(parts)-1] != "Probe" {
		return status.Errorf(codes.Unimplemented, "unknown service %s", service)
	}
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	switch method {
	case "Echo":
		out := metadata.Pairs("x-path", path)
		out.Append("x-content-type-seen", in.Get("content-type")...)
		if err := stream.SetHeader(out); err != nil {
			return err
		}
		return stream.SendMsg(&message)
	case "Fail":
		var ping probe.Ping
		if err := proto.Unmarshal(message, &ping); err != nil {
			return err
		}
		return goMicroError(int32(ping.Number), ping.Text)
	default:
		return status.Errorf(codes.Unimplemented, "unknown service %s.%s", service, method)
	}
}

// goMicroError is an error as go-micro's server writes it; with "json only" as its oldest version
// does, and "v3" as one that spells the names in capitals.
func goMicroError(code int32, text string) error {
	grpcCode := map[int32]codes.Code{
		400: codes.InvalidArgument, 401: codes.Unauthenticated, 403: codes.PermissionDenied,
		404: codes.NotFound, 408: codes.DeadlineExceeded, 409: codes.AlreadyExists,
		412: codes.FailedPrecondition, 500: codes.Internal, 501: codes.Unimplemented,
		503: codes.Unavailable,
	}[code]
	if grpcCode == codes.OK {
		grpcCode = codes.Unknown
	}
	form := `{"id":"go.micro.srv.probe","code":%d,"detail":%q,"status":"A status"}`
	if text == "v3" {
		// It had no code of gRPC's to go by.
		form = `{"Id":"go.micro.srv.probe","Code":%d,"Detail":%q,"Status":"A status"}`
		grpcCode = codes.Unknown
	}
	state := &spb.Status{Code: int32(grpcCode), Message: fmt.Sprintf(form, code, text)}
	if text != "v3" && text != "json only" {
		var value []byte
		value = protowire.AppendTag(value, 1, protowire.BytesType)
		value = protowire.AppendString(value, "go.micro.srv.probe")
		value = protowire.AppendTag(value, 2, protowire.VarintType)
		value = protowire.AppendVarint(value, uint64(code))
		value = protowire.AppendTag(value, 3, protowire.BytesType)
		value = protowire.AppendString(value, text)
		state.Details = []*anypb.Any{{TypeUrl: "type.googleapis.com/errors.Error", Value: value}}
	}
	return status.FromProto(state).Err()
}
