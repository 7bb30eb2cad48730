// Writes the descriptor of csi.proto, as the specification's own Go module carries it, to standard output: one encoded
// google.protobuf.FileDescriptorProto with its extension options. Test material only.
package main

import (
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
)

func main() {
	encoded, err := proto.Marshal(protodesc.ToFileDescriptorProto(csi.File_csi_proto))
	if err == nil {
		_, err = os.Stdout.Write(encoded)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "writing the descriptor:", err)
		os.Exit(1)
	}
}
