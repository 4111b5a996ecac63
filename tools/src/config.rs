//! `tranship config`: the settings of this command line in effect, and from where they come.
//!
//! The daemons have files of their own, and check those themselves: `tranship-agent config check`.

use comfy_table::Cell;
use serde::Serialize;

use crate::cli::{AgentArgs, Common};
use crate::failure::Outcome;
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

pub(crate) fn run(common: &Common, args: &AgentArgs) -> Outcome {
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

fn settings(common: &Common, args: &AgentArgs) -> Vec<Setting> {
    let from = |variable: &str, value: &str, default: &str| {
        if std::env::var(variable).is_ok_and(|found| found == value) {
            format!("${variable}")
        } else if value == default {
            "default".to_owned()
        } else {
            "command line".to_owned()
        }
    };
    let agent = args.agent.display().to_string();
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
