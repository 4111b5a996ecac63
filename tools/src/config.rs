//! `tranship config`: the settings in effect and from where they come, and a check of configuration files.

use std::collections::BTreeSet;
use std::path::Path;

use comfy_table::Cell;
use serde::Serialize;

use crate::cli::{Common, ConfigAction, ConfigArgs};
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::output::{self, Format};

/// Where the agent listens unless it is told otherwise.
pub(crate) const DEFAULT_AGENT: &str = tranship_agent::control::DEFAULT_SOCKET;

/// One setting.
#[derive(Debug, Serialize)]
struct Setting {
    name: &'static str,
    value: String,
    from: String,
}

pub(crate) fn run(common: &Common, args: &ConfigArgs) -> Outcome {
    if let Some(ConfigAction::Check { file }) = &args.action {
        return check(file);
    }
    let settings = settings(common, args);
    if common.output == Format::Json {
        return output::print_json(&settings);
    }
    let mut table = output::table(["SETTING", "VALUE", "FROM"]);
    for setting in settings {
        table.add_row([
            Cell::new(setting.name),
            Cell::new(setting.value),
            Cell::new(setting.from),
        ]);
    }
    output::print_table(&table)
}

fn settings(common: &Common, args: &ConfigArgs) -> Vec<Setting> {
    let from = |variable: &str, value: &str, default: &str| {
        if std::env::var(variable).is_ok_and(|found| found == value) {
            format!("${variable}")
        } else if value == default {
            "default".to_owned()
        } else {
            "command line".to_owned()
        }
    };
    let agent = args.agent.agent.display().to_string();
    let output = if common.output == Format::Json {
        "json"
    } else {
        "table"
    };
    let docker = crate::place::docker_config(None);
    vec![
        Setting {
            name: "agent",
            from: from("TRANSHIP_AGENT", &agent, DEFAULT_AGENT),
            value: agent,
        },
        Setting {
            name: "output",
            from: from("TRANSHIP_OUTPUT", output, "table"),
            value: output.into(),
        },
        Setting {
            name: "log",
            from: from("TRANSHIP_LOG", &common.log, "error"),
            value: common.log.clone(),
        },
        Setting {
            name: "docker-config",
            value: docker.map_or_else(|| "none".into(), |path| path.display().to_string()),
            from: if std::env::var_os("DOCKER_CONFIG").is_some() {
                "$DOCKER_CONFIG".into()
            } else {
                "default".into()
            },
        },
        Setting {
            name: "tmp-dir",
            value: std::env::temp_dir().display().to_string(),
            from: if std::env::var_os("TMPDIR").is_some() {
                "$TMPDIR".into()
            } else {
                "default".into()
            },
        },
    ]
}

/// Keys that an agent or a tracker knows, with their tables.
const KNOWN: &[&str] = &[
    "state_dir",
    "control_socket",
    "http_listen",
    "listen",
    "token_file",
    "registry.plain_http",
    "registry.docker_config",
    "store.dir",
    "store.quota",
    "swarm.tracker",
    "swarm.token",
    "swarm.listen",
    "swarm.announce",
    "swarm.zone",
    "device.front_end",
    "seed.dir",
    "seed.quota",
    "seed.mode",
];

fn check(file: &Path) -> Outcome {
    let shown = file.display();
    let text = std::fs::read_to_string(file).explain(|| format!("cannot read {shown}"))?;
    let table: toml::Table =
        toml::from_str(&text).explain_as(Exit::Usage, || format!("{shown} is no valid TOML"))?;
    let mut unknown = BTreeSet::new();
    keys(&table, "", &mut unknown);
    unknown.retain(|key| !KNOWN.contains(&key.as_str()));
    if unknown.is_empty() {
        output::say(&format!("{shown}: every key is known"));
        return Ok(());
    }
    let unknown: Vec<String> = unknown.into_iter().collect();
    Err(Failure::new(
        Exit::Usage,
        format!("{shown} has keys that neither the agent nor the tracker knows"),
    )
    .why(unknown.join(", "))
    .next("correct or remove them; both daemons would only warn and go on"))
}

fn keys(table: &toml::Table, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => keys(inner, &format!("{path}."), into),
            _ => {
                into.insert(path);
            }
        }
    }
}
