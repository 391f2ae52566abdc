//! Checks the other node of an active-passive pair, and decides which node is upgraded first.

use anyhow::Result;

use crate::config::product::Pair;
use crate::exit::{Failure, remedy_of};
use crate::model::event::Attention;
use crate::model::finding::Finding;
use crate::model::node::{Node, Role};
use crate::model::plan::Plan;
use crate::model::version::is_newer;
use crate::system::command::{Failed, Program};

/// Asks the product what this node is, and the other node for its version.
///
/// # Errors
/// If the role of this node is unknown. A peer that does not answer is no error.
pub fn inspect(pair: &Pair) -> Result<Node> {
    let command = pair.role.join(" ");
    let unknown = |how: String| {
        Failure::new(format!("whether this node is the active or the passive one is not known: {command} {how}"))
            .remedy(format!("Run `{command}`: it has to print active, passive or alone."))
    };
    let word = last_line(pair, &pair.role).map_err(&unknown)?;
    let role = Role::ALL.into_iter().find(|role| role.to_string() == word);
    let role = role.ok_or_else(|| unknown(format!("printed {word:?}")))?;
    let mut node = Node { role, peer_version: None, peer_silent: None };
    if role != Role::Alone {
        match last_line(pair, &pair.peer_version) {
            Ok(version) if is_version(&version) => node.peer_version = Some(version),
            Ok(other) => node.peer_silent = Some(format!("{} printed {other:?}", pair.peer_version.join(" "))),
            Err(how) => node.peer_silent = Some(format!("{} {how}", pair.peer_version.join(" "))),
        }
    }
    Ok(node)
}

/// The last line that a program prints: ssh(1) may print messages before it. The error is worded to follow the name of the program.
fn last_line(pair: &Pair, words: &[String]) -> Result<String, String> {
    let mut last = String::new();
    let result = Program::of_settings(words).and_then(|program| {
        program.time_limit(pair.timeout).lines(&mut |line| {
            if !line.trim().is_empty() {
                line.trim().clone_into(&mut last);
            }
        })
    });
    match result.map_err(anyhow::Error::downcast::<Failed>) {
        Ok(()) => Ok(last),
        Err(Ok(failed)) => Err(format!("failed {}", failed.how)),
        Err(Err(error)) => Err(format!("failed ({:#})", error.root_cause())),
    }
}

/// The characters of a version (deb-version(7)), which begins with a digit.
fn is_version(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte))
}

/// Finds a reason against this plan on this node of a pair. `--ignore-peer` turns problems into notes.
///
/// The passive node is upgraded first: it can be tested while the active one works. A passive node that has a newer version already is not
/// upgraded further.
pub(crate) fn check_plan(plan: &Plan, ignore_peer: bool, command: &str) -> Option<Finding> {
    let node = plan.node.as_ref().filter(|node| node.role != Role::Alone && !plan.is_empty())?;
    let (role, other) = (node.role, node.role.of_the_other());
    let Plan { installed, candidate, .. } = plan;
    let Some(peer) = &node.peer_version else {
        let why = node.peer_silent.as_deref().unwrap_or("the reason is not known");
        let what = format!("this is the {role} node, and the {other} one cannot be asked for its version: {why}");
        return Some(if role == Role::Active {
            let remedy = "See that the other node runs and that the two reach each other, then start again.";
            in_order(ignore_peer, what, remedy, command)
        } else {
            Finding::note(what, "See to it before the active node is upgraded.")
        });
    };
    if is_newer(peer, candidate) {
        let what = format!("the {other} node runs {peer} already, and this one would only come to {candidate}");
        Some(Finding::note(what, "See that both have the same package sources, and refresh those of this one."))
    } else if role == Role::Active && is_newer(candidate, peer) {
        let what = format!("this is the active node, and the passive one still runs {peer}");
        let remedy = format!("Upgrade the passive node first: run `{command}` there, and see that it works.");
        Some(in_order(ignore_peer, what, &remedy, command))
    } else if role == Role::Passive && is_newer(installed, peer) && is_newer(candidate, installed) {
        let what = format!(
            "this passive node runs {installed} and the active one still {peer}: with {candidate} they would be too far apart"
        );
        let remedy = format!("Upgrade the active node first: run `{command}` there.");
        Some(in_order(ignore_peer, what, &remedy, command))
    } else {
        None
    }
}

/// A reason to upgrade the other node first; a note if the admin said `--ignore-peer`.
fn in_order(ignore_peer: bool, what: String, remedy: &str, command: &str) -> Finding {
    let remedy = if ignore_peer {
        "Nothing now; upgrade the other node soon, so that both run the same.".to_owned()
    } else {
        format!("{remedy} `{command} --ignore-peer` upgrades this one whatever the other one runs.")
    };
    Finding { fatal: !ignore_peer, what, remedy }
}

/// Checks the pair again after the upgrade to this version. Returns the next step for the admin, a sentence, if there is one.
///
/// # Errors
/// If the pair has changed during the run.
pub(crate) fn check_afterwards(
    pair: &Pair,
    before: &Node,
    installed: &str,
    command: &str,
) -> Result<Option<String>, Attention> {
    let now = inspect(pair).map_err(|error| {
        Attention::new(format!("After the upgrade, {error:#}"), remedy_of(&error).unwrap_or_default())
    })?;
    if now.role != before.role {
        return Err(Attention::new(
            format!("This node was {} when the upgrade began and is {} now", before.role, now.role),
            "Check the pair before you upgrade the other node.",
        ));
    }
    let other = now.role.of_the_other();
    match (&before.peer_version, &now.peer_version) {
        (Some(_), None) => {
            let why = now.peer_silent.unwrap_or_default();
            Err(Attention::new(
                format!("The {other} node does not answer any more: {why}"),
                "Make sure that the two reach each other before you upgrade that one.",
            ))
        }
        (_, Some(version)) if is_newer(installed, version) => {
            Ok(Some(format!("The {other} node still runs {version}: run `{command}` there next.")))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(role: &str, peer: &str) -> Pair {
        toml::from_str(&format!("role = {role}\npeer-version = {peer}\ntimeout = \"5s\"")).expect("it is good")
    }

    fn node(role: Role, peer: Option<&str>) -> Node {
        Node { role, peer_version: peer.map(str::to_owned), peer_silent: peer.is_none().then(|| "no route".to_owned()) }
    }

    #[test]
    fn what_is_printed_last_counts() {
        let pair = pair(r#"["echo", "passive"]"#, r#"["printf", "Warning: added a key\n1.2-1~x\n\n"]"#);
        assert_eq!(inspect(&pair).expect("it says so"), node(Role::Passive, Some("1.2-1~x")));
    }

    #[test]
    fn a_node_without_a_peer_runs_no_command_for_it() {
        let found = inspect(&pair(r#"["echo", "alone"]"#, r#"["false"]"#)).expect("it says so");
        assert_eq!(found, Node { role: Role::Alone, peer_version: None, peer_silent: None });
    }

    #[test]
    fn what_cannot_be_found_out_is_said() {
        let said = |role: &str, peer: &str| match inspect(&pair(role, peer)) {
            Ok(node) => format!("{node}: {}", node.peer_silent.clone().unwrap_or_default()),
            Err(error) => format!("{error:#}"),
        };
        insta::assert_snapshot!([
            said(r#"["echo", "boss"]"#, r#"["false"]"#),
            said(r#"["no-such-program"]"#, r#"["false"]"#),
            said(r#"["echo", "active"]"#, r#"["sh", "-c", "echo no route to host; exit 1"]"#),
            said(r#"["echo", "active"]"#, r#"["echo", "who are you?"]"#),
            said(r#"["echo", "active"]"#, r#"["true"]"#),
        ]
        .join("\n"), @r#"
        whether this node is the active or the passive one is not known: echo boss printed "boss"
        whether this node is the active or the passive one is not known: no-such-program failed (No such file or directory (os error 2))
        active; the passive one cannot be asked: sh -c echo no route to host; exit 1 failed (exit status: 1): no route to host
        active; the passive one cannot be asked: echo who are you? printed "who are you?"
        active; the passive one cannot be asked: true printed ""
        "#);
    }

    /// What is said of an upgrade from 2 to 3 on this node.
    fn said(node: Node, ignore_peer: bool) -> String {
        let plan = Plan {
            installed: "2".to_owned(),
            candidate: "3".to_owned(),
            changes: vec![crate::model::plan::Change::upgrade("acme", "2", "3")],
            node: Some(node),
            ..Plan::default()
        };
        check_plan(&plan, ignore_peer, "acme-upgrade").map_or_else(String::new, |finding| finding.to_string())
    }

    #[test]
    fn the_passive_node_goes_first() {
        assert_eq!(said(node(Role::Passive, Some("2")), false), "");
        assert_eq!(said(node(Role::Passive, Some("3")), false), "", "it follows");
        assert_eq!(said(node(Role::Active, Some("3")), false), "");
        assert_eq!(said(node(Role::Alone, None), false), "");
        insta::assert_snapshot!([
            said(node(Role::Active, Some("2")), false),
            said(node(Role::Active, Some("2")), true),
            said(node(Role::Active, None), false),
            said(node(Role::Passive, None), false),
            said(node(Role::Passive, Some("1")), false),
            said(node(Role::Active, Some("4")), false),
        ]
        .join("\n"), @r#"
        problem: this is the active node, and the passive one still runs 2
        note: this is the active node, and the passive one still runs 2
        problem: this is the active node, and the passive one cannot be asked for its version: no route
        note: this is the passive node, and the active one cannot be asked for its version: no route
        problem: this passive node runs 2 and the active one still 1: with 3 they would be too far apart
        note: the passive node runs 4 already, and this one would only come to 3
        "#);
    }

    #[test]
    fn afterwards_the_other_node_is_next_unless_something_else_has_changed() {
        let after = |role: &str, peer: &str, before: Node| {
            let pair = pair(&format!("[\"echo\", \"{role}\"]"), peer);
            match check_afterwards(&pair, &before, "3", "acme-upgrade") {
                Ok(next) => next.unwrap_or_else(|| "nothing".to_owned()),
                Err(attention) => attention.to_string(),
            }
        };
        let two = r#"["echo", "2"]"#;
        insta::assert_snapshot!([
            after("passive", two, node(Role::Passive, Some("2"))),
            after("active", r#"["echo", "3"]"#, node(Role::Active, Some("3"))),
            after("active", two, node(Role::Passive, Some("2"))),
            after("passive", r#"["false"]"#, node(Role::Passive, Some("2"))),
            after("passive", r#"["false"]"#, node(Role::Passive, None)),
        ]
        .join("\n"), @r#"
        The active node still runs 2: run `acme-upgrade` there next.
        nothing
        This node was passive when the upgrade began and is active now
          What to do: Check the pair before you upgrade the other node.
        The active node does not answer any more: false failed (exit status: 1): it printed nothing
          What to do: Make sure that the two reach each other before you upgrade that one.
        nothing
        "#);
    }
}
