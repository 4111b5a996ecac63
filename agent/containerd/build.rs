//! Makes types and services of the calls in `proto`, with a compiler of protobuf that is Rust itself: a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos = [
        "containerd/content.proto",
        "containerd/diff.proto",
        "containerd/events.proto",
        "containerd/images.proto",
        "containerd/leases.proto",
        "containerd/namespaces.proto",
        "containerd/snapshots.proto",
        "containerd/version.proto",
        "cri/runtime.proto",
    ];
    let compiled = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(compiled)?;
    Ok(())
}
