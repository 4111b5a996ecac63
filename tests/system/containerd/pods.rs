//! Pods, as the kubelet makes them: over the container runtime interface, with labels that containerd gives by itself.

use std::fs;

use tranship_containerd::cri;
use tranship_containerd::cri::image_service_client::ImageServiceClient;
use tranship_containerd::cri::runtime_service_client::RuntimeServiceClient;
use tranship_tests::containerd::until;

use super::Node;
use super::image::DATA_LEN;

/// A pod in the host's namespaces: no network plugin is asked.
fn pod(logs: &str) -> cri::PodSandboxConfig {
    let host = cri::NamespaceMode::Node.into();
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
                namespace_options: Some(cri::NamespaceOption {
                    network: host,
                    ..cri::NamespaceOption::default()
                }),
            }),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    }
}

fn image_spec(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
        ..cri::ImageSpec::default()
    }
}

fn container(image: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "app".to_owned(),
            attempt: 0,
        }),
        image: Some(image_spec(image)),
        command: ["/bin/sh", "-c", "cat /etc/greeting; sleep 1000"]
            .map(str::to_owned)
            .into(),
        log_path: "app.log".to_owned(),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    network: cri::NamespaceMode::Node.into(),
                    ..cri::NamespaceOption::default()
                }),
                readonly_rootfs: true,
            }),
        }),
        ..cri::ContainerConfig::default()
    }
}

#[test]
fn a_pod_that_names_the_original_image_starts_lazily() {
    let node = Node::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(live(&node));
    until("everything of the pod goes", || {
        let left = node.leftovers();
        // What pods stand on stays, as the kubelet keeps it.
        left.iter()
            .all(|left| left.contains("/snapshots/snapshots/"))
            && left.len() == 1
    });
}

async fn live(node: &Node) {
    let channel = node.containerd.channel().await;
    let mut images = ImageServiceClient::new(channel.clone());
    let mut pods = RuntimeServiceClient::new(channel);
    let reference = node.image.beside();
    let before = node.image.registry.sent_len();
    let pull = cri::PullImageRequest {
        image: Some(image_spec(&reference)),
        ..cri::PullImageRequest::default()
    };
    images.pull_image(pull).await.expect("a pulled image");
    let fetched = node.image.registry.sent_len() - before;
    assert!(fetched < DATA_LEN / 2, "{fetched} bytes is not lazy");
    assert!(node.images("sibling") >= 1.0);

    let logs = node
        .cluster
        .folder()
        .join("logs")
        .to_string_lossy()
        .into_owned();
    fs::create_dir_all(&logs).expect("a folder");
    let config = pod(&logs);
    let run = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..cri::RunPodSandboxRequest::default()
    };
    let pod_sandbox_id = pods
        .run_pod_sandbox(run)
        .await
        .expect("a pod")
        .into_inner()
        .pod_sandbox_id;
    let create = cri::CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(container(&reference)),
        sandbox_config: Some(config),
    };
    let container_id = pods
        .create_container(create)
        .await
        .expect("a container")
        .into_inner()
        .container_id;
    let start = cri::StartContainerRequest { container_id };
    pods.start_container(start)
        .await
        .expect("a started container");
    until("the container says what it reads", || {
        let log = fs::read_to_string(format!("{logs}/app.log")).unwrap_or_default();
        log.contains("hello from the upper layer")
    });
    let usage = images
        .image_fs_info(cri::ImageFsInfoRequest {})
        .await
        .expect("the usage");
    let usage = &usage.into_inner().image_filesystems;
    let mountpoint = usage[0].fs_id.as_ref().expect("a place").mountpoint.clone();
    assert!(
        mountpoint.ends_with("io.containerd.snapshotter.v1.tranship"),
        "{mountpoint}"
    );

    let stop = cri::StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    pods.stop_pod_sandbox(stop).await.expect("a stopped pod");
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id };
    pods.remove_pod_sandbox(remove)
        .await
        .expect("a removed pod");
    let remove = cri::RemoveImageRequest {
        image: Some(image_spec(&reference)),
    };
    images.remove_image(remove).await.expect("a removed image");
}
