//! Pods, as the kubelet makes them: over the container runtime interface, in the host's network, so that no network plugin is asked.

use crate::command::{need_tools, run};
use crate::containerd::Containerd;
use crate::layout::{self, Stored};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;
use tranship_containerd::cri::image_service_client::ImageServiceClient;
use tranship_containerd::cri::runtime_service_client::RuntimeServiceClient;
use tranship_containerd::tonic::transport::Channel;
use tranship_containerd::{connect, cri};

/// Makes the image that pods stand on, as a layout below `folder` with the tag `v1`.
pub fn pause_layout(folder: &Path) -> PathBuf {
    need_tools(&["busybox", "tar"]);
    let bin = folder.join("pause/bin");
    fs::create_dir_all(&bin).expect("a folder");
    fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox");
    // What such images run by themselves, and must not end.
    let script = "#!/bin/busybox sh\nexec /bin/busybox sleep 100000\n";
    fs::write(bin.join("sh"), script).expect("a script");
    fs::set_permissions(bin.join("sh"), fs::Permissions::from_mode(0o755)).expect("a mode");
    let (tar, layout) = (folder.join("pause.tar"), folder.join("pause-layout"));
    let root = folder.join("pause").to_string_lossy().into_owned();
    let options = ["--create", "--owner=0", "--group=0", "--directory", &root];
    let target = ["--file", &tar.to_string_lossy(), "."];
    run("tar", &[&options[..], &target].concat());
    layout::write(&layout, "v1", &[(&tar, Stored::Gzip)]);
    layout
}

/// A connection to a runtime.
#[derive(Debug)]
pub struct Pods {
    runtime: Runtime,
    images: ImageServiceClient<Channel>,
    sandboxes: RuntimeServiceClient<Channel>,
}

impl Pods {
    /// Connects to a containerd.
    pub fn of(containerd: &Containerd) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let channel = runtime.block_on(containerd.channel());
        Self {
            images: ImageServiceClient::new(channel.clone()),
            sandboxes: RuntimeServiceClient::new(channel),
            runtime,
        }
    }

    /// The same, with calls about images to another socket.
    #[must_use]
    pub fn with_images_at(mut self, socket: &Path) -> Self {
        let channel = self.runtime.block_on(connect(socket));
        self.images = ImageServiceClient::new(channel.expect("a connection"));
        self
    }

    /// Pulls an image.
    pub fn pull(&mut self, image: &str) {
        let request = cri::PullImageRequest {
            image: Some(image_spec(image)),
            ..cri::PullImageRequest::default()
        };
        let call = self.images.pull_image(request);
        self.runtime.block_on(call).expect("a pulled image");
    }

    /// Removes an image.
    pub fn remove_image(&mut self, image: &str) {
        let request = cri::RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        let call = self.images.remove_image(request);
        self.runtime.block_on(call).expect("a removed image");
    }

    /// Runs a pod with one container, whose root is for reading; what it says is in `app.log` of the folder `logs`. The pod's id.
    pub fn start(&mut self, image: &str, command: &[&str], logs: &Path) -> String {
        fs::create_dir_all(logs).expect("a folder");
        let config = pod(&logs.to_string_lossy());
        let run = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..cri::RunPodSandboxRequest::default()
        };
        let pods = &mut self.sandboxes;
        let starting = async {
            let pod = pods.run_pod_sandbox(run).await?.into_inner();
            let create = cri::CreateContainerRequest {
                pod_sandbox_id: pod.pod_sandbox_id.clone(),
                config: Some(container(image, command)),
                sandbox_config: Some(config),
            };
            let container_id = pods
                .create_container(create)
                .await?
                .into_inner()
                .container_id;
            let start = cri::StartContainerRequest { container_id };
            pods.start_container(start).await?;
            Ok::<_, tranship_containerd::tonic::Status>(pod.pod_sandbox_id)
        };
        self.runtime.block_on(starting).expect("a started pod")
    }

    /// Ends a pod and takes it away.
    pub fn remove(&mut self, pod_sandbox_id: String) {
        let stop = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id };
        let pods = &mut self.sandboxes;
        let removing = async {
            pods.stop_pod_sandbox(stop).await?;
            pods.remove_pod_sandbox(remove).await
        };
        self.runtime.block_on(removing).expect("a removed pod");
    }

    /// Where the runtime says that images are, and the bytes that they take there; `None` while it does not know.
    pub fn image_usage(&mut self) -> Option<(String, u64)> {
        let call = self.images.image_fs_info(cri::ImageFsInfoRequest {});
        let usage = self.runtime.block_on(call).ok()?.into_inner();
        let usage = usage.image_filesystems.into_iter().next()?;
        Some((usage.fs_id?.mountpoint, usage.used_bytes?.value))
    }
}

fn pod(logs: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "pod".to_owned(),
            uid: "uid-1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.to_owned(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(host_network()),
            }),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    }
}

fn container(image: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "app".to_owned(),
            attempt: 0,
        }),
        image: Some(image_spec(image)),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: "app.log".to_owned(),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(host_network()),
                readonly_rootfs: true,
            }),
        }),
        ..cri::ContainerConfig::default()
    }
}

fn host_network() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Node.into(),
        ..cri::NamespaceOption::default()
    }
}

fn image_spec(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
        ..cri::ImageSpec::default()
    }
}
