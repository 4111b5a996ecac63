//! An agent in a guest, whose registry is on the machine outside.

use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Guest, Kernel, binary};

use super::{DEVICE_MODULES, NETWORK_MODULES};

/// How an agent in a guest is started and asked. The registry is the machine outside.
const AGENT: &str = r#"
set -e
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
mkdir -p DIR/store
PREPARE
cat >/tmp/agent.toml <<END
state_dir = "DIR/state"
control_socket = "/tmp/agent.sock"
http_listen = "off"
[registry]
plain_http = ["10.0.2.2:PORT"]
[store]
dir = "DIR/store"
quota = "200MiB"
free_floor = "0B"
[device]
detach_on_stop = false
processes = true
block_cache = "1MiB"
END
image=docker://10.0.2.2:PORT/test/faults:v1
agent() { : >/tmp/ready; tranship-agent --config /tmp/agent.toml --print-ready >/tmp/ready 2>>/tmp/agent.log & pid=$!; until [ -s /tmp/ready ]; do usleep 50000; done; }
call() { verb=$1; shift; tranship $verb --agent /tmp/agent.sock "$@" || { echo "failed: $verb $*"; cat /tmp/agent.log; exit 1; }; }
agent
BODY
kill $pid
wait $pid
"#;

/// A guest with our programs and a network.
pub(super) fn with_agent(kernel: &Kernel, more_modules: &[&str]) -> Guest {
    let modules = [&DEVICE_MODULES[..], &NETWORK_MODULES, more_modules].concat();
    let mut guest = Guest::with(kernel, &modules);
    for name in [
        "tranship-agent",
        "tranship-keeper",
        "tranship-device",
        "tranship",
    ] {
        guest.program(&binary(name), name);
    }
    guest.arguments(["-netdev", "user,id=net"]);
    guest.arguments(["-device", "virtio-net-pci,netdev=net,romfile="]);
    guest
}

/// What is run there: the agent has its state and its store in `dir` once `prepare` is done, and `body` asks it.
pub(super) fn script(registry: &DockerRegistry, dir: &str, prepare: &str, body: &str) -> String {
    let host = registry.host();
    let port = host.rsplit(':').next().expect("a port");
    AGENT
        .replace("DIR", dir)
        .replace("PREPARE", prepare)
        .replace("BODY", body)
        .replace("PORT", port)
}
