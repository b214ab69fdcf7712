package main

import (
	"context"
	"fmt"
	"sort"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// reflection asks a service what it is, in both versions of the protocol, and how it is.
func reflection(args []string) error {
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := reflectionV1(ctx, conn); err != nil {
		return fmt.Errorf("v1: %w", err)
	}
	if err := reflectionV1Alpha(ctx, conn); err != nil {
		return fmt.Errorf("v1alpha: %w", err)
	}
	health := grpc_health_v1.NewHealthClient(conn)
	for _, service := range []string{"", "probe.Probe", "nobody"} {
		reply, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		say("health of '"+service+"'", reply.GetStatus(), status.Code(err))
	}
	return nil
}

// The two versions have the same messages in different packages, so all of it is there twice.

func reflectionV1(ctx context.Context, conn *grpc.ClientConn) error {
	type request = grpc_reflection_v1.ServerReflectionRequest
	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	ask := func(ask *request) (*grpc_reflection_v1.ServerReflectionResponse, error) {
		if err := stream.Send(ask); err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	reply, err := ask(&request{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return err
	}
	var names []string
	for _, service := range reply.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	sayServices("v1", names)
	for _, symbol := range []string{"probe.Probe", "kinds.v1.Everything", "nobody"} {
		reply, err = ask(&request{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: symbol,
		}})
		if err != nil {
			return err
		}
		code := reply.GetErrorResponse().GetErrorCode()
		sayFiles("v1 "+symbol, reply.GetFileDescriptorResponse().GetFileDescriptorProto(), code)
	}
	return stream.CloseSend()
}

func reflectionV1Alpha(ctx context.Context, conn *grpc.ClientConn) error {
	type request = grpc_reflection_v1alpha.ServerReflectionRequest
	stream, err := grpc_reflection_v1alpha.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	ask := func(ask *request) (*grpc_reflection_v1alpha.ServerReflectionResponse, error) {
		if err := stream.Send(ask); err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	reply, err := ask(&request{MessageRequest: &grpc_reflection_v1alpha.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return err
	}
	var names []string
	for _, service := range reply.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	sayServices("v1alpha", names)
	for _, symbol := range []string{"probe.Probe", "kinds.v1.Everything", "nobody"} {
		reply, err = ask(&request{MessageRequest: &grpc_reflection_v1alpha.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: symbol,
		}})
		if err != nil {
			return err
		}
		code := reply.GetErrorResponse().GetErrorCode()
		sayFiles("v1alpha "+symbol, reply.GetFileDescriptorResponse().GetFileDescriptorProto(), code)
	}
	return stream.CloseSend()
}

func sayServices(version string, names []string) {
	sort.Strings(names)
	for _, name := range names {
		say(version+" lists", name)
	}
}

// sayFiles prints what the first file defines: the one that was asked for.
func sayFiles(what string, files [][]byte, code int32) {
	if len(files) == 0 {
		say(what, codes.Code(code))
		return
	}
	var file descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(files[0], &file); err != nil {
		say(what, err)
		return
	}
	for _, service := range file.Service {
		for _, method := range service.Method {
			say(what, method.GetName(), method.GetClientStreaming(), method.GetServerStreaming())
		}
	}
	for _, message := range file.MessageType {
		say(what, message.GetName(), len(message.Field))
	}
}

// watch prints the health of a service until the stream ends.
func watch(args []string) error {
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	health := grpc_health_v1.NewHealthClient(conn)
	stream, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	for {
		reply, err := stream.Recv()
		if err != nil {
			say("ends", status.Code(err))
			return nil
		}
		say("health", reply.Status)
	}
}
