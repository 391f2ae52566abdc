//! The sentence of each event in the log and in systemd's journal. The screen has lines of its own.

use crate::model::event::Event;
use crate::model::hook::HookOutcome;
use crate::model::plan::Plan;

/// A sentence, and its details on further lines. None for progress.
pub(crate) fn of(event: &Event) -> Option<String> {
    let text = match event {
        Event::Progress { .. } => return None,
        Event::Started { version, arguments, .. } => format!("upgrader {version} started with arguments {arguments:?}"),
        Event::Detached { unit, .. } => {
            format!("continues in the background as {}", unit.as_deref().unwrap_or("this process"))
        }
        Event::Attention(attention) => attention.to_string(),
        Event::Began(step) => format!("step {step} began"),
        Event::Ended(step) => format!("step {step} ended"),
        Event::SelfUpdate { package, from, to, outcome } => {
            format!("self-update: {package} {from} -> {to}: {outcome:?}")
        }
        Event::Planned { product, plan, .. } => planned(product, plan),
        Event::Waiting { who, seconds } => format!("waiting up to {seconds} s for {who} to release the dpkg lock"),
        Event::Found(finding) => format!("{finding}. {}", finding.remedy),
        Event::Conffile(entry) => {
            let sum = |sum: &Option<String>| sum.clone().unwrap_or_else(|| "-".to_owned());
            format!("conffile: {entry}\n  SHA-256 {} -> {}", sum(&entry.sha256_before), sum(&entry.sha256_after))
        }
        Event::Answered(yes) => format!("the answer is {}", if *yes { "yes" } else { "no" }),
        Event::Repairing => "finishing the interrupted work of dpkg".to_owned(),
        Event::Interrupted(run) => {
            let step = run.step.map_or_else(String::new, |step| format!(" at the step {step}"));
            format!("{} -> {} was interrupted{step}\n  last active {}", run.from, run.to, run.last)
        }
        Event::StepAlreadyDone(step) => format!("step {step} was done before"),
        Event::HookAlreadyDone(phase, hook) => format!("{phase} hook {hook} was run before"),
        Event::RollbackDataSaved { paths, bytes } => {
            format!("rollback data saved: {paths} paths, {bytes} bytes copied")
        }
        Event::Retrying(error) => format!("retrying after: {error}"),
        Event::RollbackPreview(back) => {
            let changed = back.changed_since.iter().map(|path| format!("\nchanged since: {path}"));
            format!("a rollback leads to {} {}{}", back.product, back.to, changed.collect::<String>())
        }
        Event::RollingBack { product, to } => format!("rolling back to {product} {to}"),
        Event::Restored { changed, removed } => format!("{changed} paths restored, {removed} removed"),
        Event::DatabaseRestored { database, kept_as } => {
            let kept = kept_as.as_ref().map(|name| format!("; its latest state is kept as {name}"));
            format!("database {database} restored{}", kept.unwrap_or_default())
        }
        Event::HookBegan(phase, hook) => format!("{phase} hook {hook} began"),
        Event::HookSkipped(phase, hook, reason) => format!("{phase} hook {hook} skipped: {reason}"),
        Event::HookEnded { phase, hook, ended, milliseconds } => {
            let how = match ended {
                HookOutcome::Done => "is done".to_owned(),
                HookOutcome::NotApplicable => "is not applicable".to_owned(),
                HookOutcome::Failed(how) => format!("failed {how}"),
            };
            format!("{phase} hook {hook} {how} after {milliseconds} ms")
        }
        Event::DatabaseSaving { database, directory } => format!("saving the database {database} to {directory}"),
        Event::DatabaseSaved { file, bytes } => format!("saved as {file}, {bytes} bytes"),
        Event::Migrating(database) => format!("migrating the database {database}"),
        Event::MigrationSkipped(name, reason) => format!("migration {name} skipped: {reason}"),
        Event::Migrated(name, Ok(())) => format!("migration {name} applied"),
        Event::Migrated(name, Err(error)) => format!("migration {name} failed: {error}"),
        Event::ServiceRestarting(service) => format!("restarting {service}"),
        Event::ServiceUp { service, outage } => format!("{service} is up after {outage} ms"),
        Event::ServiceDown { service, reason, log } => {
            let log = log.iter().map(|line| format!("\n{service}: {line}"));
            format!("{service} is not up: {reason}{}", log.collect::<String>())
        }
        Event::ServiceSkipped(service, reason) => format!("{service} skipped: {reason}"),
        Event::OthersRestarting(services) => format!("running replaced files: {}", services.join(" ")),
        Event::ManagerReexecuted(Ok(())) => "systemd re-executed".to_owned(),
        Event::ManagerReexecuted(Err(error)) => format!("systemd was not re-executed: {error}"),
        Event::RestartRecommended(what) => {
            let lines = what.iter().map(|(name, reason)| format!("restart recommended: {name}: {reason}"));
            lines.collect::<Vec<_>>().join("\n")
        }
        Event::RebootRecommended(reasons) => format!("reboot recommended: {}", reasons.join("; ")),
        Event::Output { source, line } => format!("{source}: {line}"),
        Event::Failed(text) => text.clone(),
        Event::Finished { exit, message, .. } => format!("finished with exit code {}: {message}", exit.code()),
    };
    Some(text)
}

fn planned(product: &str, plan: &Plan) -> String {
    let Plan { installed, candidate, changes, .. } = plan;
    let mut lines = vec![format!("{product} {installed} -> {candidate}: {} packages change", changes.len())];
    lines.push(format!("plan: {} bytes to download", plan.download));
    lines.extend(changes.iter().map(|change| format!("plan: {change}")));
    lines.extend(plan.unfinished.iter().map(|package| format!("plan: {package} is installed but not configured")));
    lines.extend(plan.migrations.iter().map(|migration| format!("plan: database migration {migration}")));
    lines.extend(plan.kept_back.iter().map(|package| format!("plan: {package} is kept back")));
    lines.join("\n")
}
