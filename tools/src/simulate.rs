//! `tranship simulate`: what a swarm of a scenario would do, lived through in virtual time by the very decisions of the real one.

use comfy_table::Cell;
use tranship_simulate::Scenario;

use crate::cli::{Common, SimulateArgs};
use crate::failure::{Exit, Explain, Outcome};
use crate::output::{self, Format, number};

pub(crate) fn run(common: &Common, args: &SimulateArgs) -> Outcome {
    let path = args.scenario.display();
    let text = std::fs::read_to_string(&args.scenario)
        .explain_as(Exit::Usage, || format!("cannot read the scenario `{path}`"))?;
    let scenario = Scenario::parse(&text).map_err(|error| {
        crate::failure::Failure::new(Exit::Usage, format!("cannot use the scenario `{path}`"))
            .because(&error)
            .next("docs/operations.md lists the keys of a scenario; benches/scenarios has examples")
    })?;
    let report = tranship_simulate::simulate(&scenario, args.seed);
    if common.output == Format::Json {
        return output::print_json(&report);
    }
    let mut table = output::table(["FIGURE", "VALUE"]);
    for (name, value) in report.rows() {
        table.add_row([Cell::new(name), number(value)]);
    }
    output::print(&format!("{}\n\n", report.about))?;
    output::print_table(&table)?;
    output::print(&format!("\n{}", report.plot()))
}
