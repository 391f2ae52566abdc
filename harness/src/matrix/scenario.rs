//! Scenarios, which list the cells of the matrix: the files in `scenarios/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;
use serde::Deserialize;
use toml::Spanned;
use upgrader::config::strict::line_at;
use upgrader::model::step::Step;
use upgrader::model::version::is_newer;

use super::answer::Answer;
use super::cell::Cell;
use super::record::NONE;
use super::state::{FRESH, State};
use crate::data;
use crate::faults::fault::{Fault, FaultAtStep, key};
use crate::machines::image::Debian;
use crate::observe::expectation::Expectation;
use crate::packages::release::Release;

/// A part of the matrix: a file in `scenarios/`. It has a cell for each combination of what it lists.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Scenario {
    /// What a user would lose if it did not hold.
    description: String,
    /// The releases that machines have.
    from: Vec<Spanned<String>>,
    /// The releases that are published for them. A release is not combined with itself, nor with one that is older.
    to: Vec<Spanned<String>>,
    /// The releases of Debian; `bookworm-to-trixie` is a machine that goes from one to the next with the same run.
    on: Vec<Spanned<String>>,
    /// Those cells that run on all of them: parts of their names, or the whole of one. The others run on one of them each, in turn; without
    /// this key, all run on all.
    everywhere: Option<Vec<Spanned<String>>>,
    /// Whether the machines have a database, which the releases change.
    #[serde(default)]
    database: bool,
    /// The states of the machines; `*` is all of them.
    #[serde(default)]
    states: Vec<Spanned<String>>,
    /// What goes wrong, everywhere it can (`hook-fails`) or at one step (`hook-fails@pre-upgrade-hooks`); `*` is everything
    /// everywhere; `none` is a run in which nothing does. On machines with a database only those that need one are injected; on others, only the rest.
    #[serde(default)]
    faults: Vec<Spanned<String>>,
    /// The answers of the admin.
    #[serde(default)]
    answers: Vec<Answer>,
    /// What is expected, whatever the states, faults and answers say.
    #[serde(default)]
    expect: Expectation,
    /// Those cells that `make test` runs, too: parts of their names, or the whole of one.
    #[serde(default)]
    chosen: Vec<Spanned<String>>,
    /// Those cells of which something else is expected, or which are left out.
    #[serde(default)]
    except: Vec<Exception>,
}

/// Cells that are not like the others of their scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    /// A part of their names, or the whole of one.
    of: Spanned<String>,
    /// The reason, for readers of the file.
    because: String,
    /// What is expected of them besides; they are left out if that is not said.
    expect: Option<Expectation>,
}

/// What scenarios are made of.
#[derive(Default)]
struct Parts {
    states: BTreeMap<String, State>,
    faults: BTreeMap<String, Fault>,
}

/// All cells of the matrix, in the order of the scenarios' names. An error names the file, and the line and the key or the unknown name.
pub fn matrix() -> Result<Vec<Cell>> {
    let parts = parts()?;
    let mut cells = Vec::new();
    for (name, path) in data::files("scenarios")? {
        cells.extend(read(&name, &path, &parts)?);
    }
    Ok(cells)
}

/// Every state and every fault there is.
fn parts() -> Result<Parts> {
    let states = data::files("states")?.into_iter().map(|(name, path)| Ok((name, data::read(&path)?)));
    let faults = data::files("faults")?.into_iter().map(|(name, path)| Ok((name, Fault::read(&path)?)));
    let (states, faults) = (states.collect::<Result<_>>()?, faults.collect::<Result<_>>()?);
    Ok(Parts { states, faults })
}

fn read(name: &str, path: &Path, parts: &Parts) -> Result<Vec<Cell>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let scenario: Scenario = data::parse(path, &text)?;
    let at = |spanned: &Spanned<String>| format!("{}:{}", path.display(), line_at(&text, spanned.span().start));
    let releases = |names: &[Spanned<String>]| {
        let read = |name: &Spanned<String>| Release::named(name.get_ref()).with_context(|| at(name));
        names.iter().map(read).collect::<Result<Vec<_>>>()
    };
    for list in [&scenario.from, &scenario.to, &scenario.on, &scenario.states, &scenario.faults] {
        if let Some(name) = data::repeated(list) {
            bail!("{}: {} is there twice", at(name), name.get_ref());
        }
    }
    let mut cells = Vec::new();
    let (from, to) = (releases(&scenario.from)?, releases(&scenario.to)?);
    for (name, release) in scenario.to.iter().zip(&to).filter(|_| scenario.database) {
        let has_some = !release.migrations.is_empty();
        ensure!(has_some, "{}: {} has no migration of the database", at(name), release.version);
    }
    let debians = scenario.on.iter().map(|name| debians(name.get_ref()).with_context(|| at(name)));
    let debians = debians.collect::<Result<Vec<_>>>()?;
    let states = states(&scenario, parts, &at)?;
    let faults = faults(&scenario, parts, &at)?;
    let answers = if scenario.answers.is_empty() { vec![Answer::default()] } else { scenario.answers.clone() };
    for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
        if !is_newer(&to.version, &from.version) {
            continue;
        }
        for &(debian, next_debian) in &debians {
            for (state_name, state) in &states {
                for fault in &faults {
                    for &answer in &answers {
                        // Without a question, no fault can happen at it.
                        let asked = fault.as_ref().is_some_and(|fault| fault.step == Step::Confirm);
                        let answer = if asked && answer == Answer::Unasked { Answer::Yes } else { answer };
                        cells.push(Cell {
                            scenario: name.to_owned(),
                            guarantee: scenario.description.clone(),
                            from: from.version.clone(),
                            to: to.version.clone(),
                            debian,
                            next_debian,
                            has_database: scenario.database,
                            state_name: state_name.clone(),
                            state: state.clone(),
                            fault: fault.clone(),
                            defect: None,
                            answer,
                            expect: scenario.expect.clone(),
                            remarks: Vec::new(),
                            chosen: false,
                        });
                    }
                }
            }
        }
    }
    // As by `*` and a name that it stands for.
    let names: Vec<String> = cells.iter().map(Cell::name).collect();
    if let Some(name) = data::repeated(&names) {
        bail!("{}: it has the cell {name} twice", path.display());
    }
    if let Some(everywhere) = &scenario.everywhere {
        let everywhere = everywhere.iter().map(|part| meant(&cells, Cell::name_anywhere, part, &at));
        let everywhere: Vec<_> = everywhere.collect::<Result<_>>()?;
        take_turns(&mut cells, &debians, &everywhere.into_iter().flatten().collect());
    }
    for Exception { of, because, expect } in &scenario.except {
        let concerned = meant(&cells, Cell::name, of, &at)?;
        let Some(expect) = expect else {
            cells.retain(|cell| !concerned.contains(&cell.name()));
            continue;
        };
        for cell in cells.iter_mut().filter(|cell| concerned.contains(&cell.name())) {
            cell.expect = expect.or(&cell.expect);
            cell.remarks.push(because.clone());
        }
    }
    ensure!(!cells.is_empty(), "{}: no cell comes of it", path.display());
    for part in &scenario.chosen {
        let chosen = meant(&cells, Cell::name, part, &at)?;
        cells.iter_mut().filter(|cell| chosen.contains(&cell.name())).for_each(|cell| cell.chosen = true);
    }
    Ok(cells)
}

/// The names of the cells that have this in their names. If it is the whole name of one, only that is meant.
fn meant(
    cells: &[Cell],
    name: impl Fn(&Cell) -> String,
    part: &Spanned<String>,
    at: Where<'_>,
) -> Result<BTreeSet<String>> {
    let (names, text): (BTreeSet<String>, _) = (cells.iter().map(name).collect(), part.get_ref());
    if let Some(whole) = names.get(text) {
        return Ok(BTreeSet::from([whole.clone()]));
    }
    let found: BTreeSet<String> = names.into_iter().filter(|name| name.contains(text)).collect();
    ensure!(!found.is_empty(), "{}: no cell of the scenario has {text:?} in its name", at(part));
    Ok(found)
}

/// Leaves of each cell the one on one release of Debian, the next one's on the next: by their names, so that each fault is seen on several.
/// Those that run everywhere have no turn.
fn take_turns(cells: &mut Vec<Cell>, debians: &[(Debian, Option<Debian>)], everywhere: &BTreeSet<String>) {
    let names: BTreeSet<String> = cells.iter().map(Cell::name_anywhere).collect();
    let turns: BTreeMap<_, _> = names.difference(everywhere).zip(debians.iter().cycle()).collect();
    let its_turn =
        |cell: &Cell| turns.get(&cell.name_anywhere()).is_none_or(|turn| **turn == (cell.debian, cell.next_debian));
    cells.retain(its_turn);
}

/// A release of Debian, or the way from one to the next.
fn debians(text: &str) -> Result<(Debian, Option<Debian>)> {
    let read = |name| Debian::from_str(name, false).map_err(anyhow::Error::msg);
    let Some((debian, next)) = text.split_once("-to-") else { return Ok((read(text)?, None)) };
    let (debian, next) = (read(debian)?, read(next)?);
    ensure!(debian.next() == Some(next), "{next} does not come after {debian}");
    Ok((debian, Some(next)))
}

type Where<'a> = &'a dyn Fn(&Spanned<String>) -> String;

fn states(scenario: &Scenario, parts: &Parts, at: Where<'_>) -> Result<Vec<(String, State)>> {
    let fresh = || (FRESH.to_owned(), State::default());
    if scenario.states.is_empty() {
        return Ok(vec![fresh()]);
    }
    let mut states = Vec::new();
    for name in &scenario.states {
        match (name.get_ref().as_str(), parts.states.get(name.get_ref())) {
            ("*", _) => states.extend(parts.states.iter().map(|(name, state)| (name.clone(), state.clone()))),
            (FRESH, _) => states.push(fresh()),
            (known, Some(state)) => states.push((known.to_owned(), state.clone())),
            (unknown, None) => bail!("{}: there is no states/{unknown}.toml", at(name)),
        }
    }
    Ok(states)
}

fn faults(scenario: &Scenario, parts: &Parts, at: Where<'_>) -> Result<Vec<Option<FaultAtStep>>> {
    if scenario.faults.is_empty() {
        return Ok(vec![None]);
    }
    let mut faults = Vec::new();
    for written in &scenario.faults {
        let (name, step) = written
            .get_ref()
            .split_once('@')
            .map_or((written.get_ref().as_str(), None), |(name, step)| (name, Some(step)));
        if written.get_ref() == NONE {
            faults.push(None);
            continue;
        }
        let all: Vec<FaultAtStep> = if name == "*" {
            parts.faults.iter().flat_map(|(name, fault)| fault.at_steps(name)).collect()
        } else {
            let fault = parts.faults.get(name);
            fault.with_context(|| format!("{}: there is no faults/{name}.toml", at(written)))?.at_steps(name)
        };
        let before = faults.len();
        let is_meant = |fault: &FaultAtStep| {
            step.is_none_or(|step| key(fault.step) == step) && fault.needs_database() == scenario.database
        };
        faults.extend(all.into_iter().filter(is_meant).map(Some));
        let database = if scenario.database { "with" } else { "without" };
        ensure!(
            faults.len() > before,
            "{}: {name} cannot be injected there, on machines {database} a database",
            at(written)
        );
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use documented::Page;

    use super::*;
    use crate::data::{expected, keys, read_as};

    #[test]
    fn every_key_is_documented_and_every_documented_key_exists() {
        let page = Page::read("docs/reference/matrix.md");
        let scenario = keys::<Scenario>().into_iter().chain(keys::<Exception>());
        let answers = expected::<Scenario>("answers = [\"unknown\"]");
        page.section("### Exceptions").has_keys(keys::<Exception>());
        page.section("### Answers").has_keys(answers.clone());
        page.section("## Scenarios").has_keys(scenario.chain(answers));
        page.section("## States").has_keys(keys::<State>());
        let ends = expected::<Expectation>("end = \"unknown\"");
        page.section("### Ends").has_keys(ends.clone());
        page.section("## What is expected").has_keys(keys::<Expectation>().into_iter().chain(ends));
    }

    #[test]
    fn the_examples_of_the_documentation_are_good() {
        let page = Page::read("docs/reference/matrix.md");
        for example in page.examples("scenario") {
            let read = |path: &Path| read("example", path, &parts().unwrap()).unwrap();
            assert!(!read_as("example.toml", &example.text, read).is_empty());
        }
        for example in page.examples("state") {
            data::parse::<State>(Path::new("example.toml"), &example.text).unwrap();
        }
        for example in page.examples("expectation") {
            data::parse::<Expectation>(Path::new("example.toml"), &example.text).unwrap();
        }
    }

    #[test]
    fn the_matrix_is_good_and_says_what_is_wrong_with_a_scenario() {
        let cells = matrix().unwrap();
        assert!(cells.len() >= 150, "{}", cells.len());
        let on = |debian| cells.iter().filter(|cell| cell.debian == debian).count();
        let (bookworm, trixie) = (on(Debian::Bookworm), on(Debian::Trixie));
        assert!(bookworm.abs_diff(trixie) <= 4, "{bookworm} on bookworm, {trixie} on trixie");
        let complaint = |rest: &str| {
            let text =
                format!("description = \"\"\nfrom = [\"1.2.1\"]\nto = [\"1.2.2\"]\non = [\"bookworm\"]\n{rest}\n");
            let read = |path: &Path| read("bad", path, &Parts::default()).unwrap_err();
            format!("{:#}", read_as("bad.toml", &text, read)).rsplit_once("bad.toml").unwrap().1.to_owned()
        };
        for (rest, said) in [
            ("states = ['nowhere']", ":5: there is no states/nowhere.toml"),
            ("faults = ['nothing@refresh']", ":5: there is no faults/nothing.toml"),
            ("faults = ['none@refresh']", ":5: there is no faults/none.toml"),
            ("faults = ['*@lunch']", ":5: * cannot be injected there, on machines without a database"),
            ("database = true", ":3: 1.2.2 has no migration of the database"),
            ("chosen = ['yesterday']", ":5: no cell of the scenario has \"yesterday\" in its name"),
            ("everywhere = ['home']", ":5: no cell of the scenario has \"home\" in its name"),
            ("states = ['fresh',\n'fresh']", ":6: fresh is there twice"),
            ("answers = ['no', 'no']", ": it has the cell bad::1.2.1-to-1.2.2::no::bookworm twice"),
            // The names that `everywhere` is compared with have no Debian.
            ("everywhere = ['bookworm']", ":5: no cell of the scenario has \"bookworm\" in its name"),
        ] {
            assert_eq!(complaint(rest), said, "{rest}");
        }
        assert!(complaint("state = []").starts_with(":5: unknown field `state`"));
    }
}
