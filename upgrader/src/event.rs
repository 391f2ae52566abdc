use crate::exit::Exit;
use crate::hooks::Phase;
use crate::plan::Plan;
use crate::step::Step;

/// Something that happened, told by the engine to whoever listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A program of the upgrader started.
    Started {
        /// Its version.
        version: &'static str,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// A step began.
    Began(Step),
    /// A step ended without failing.
    Ended(Step),
    /// The upgrader's own package goes from one version to another, or would without `--dry-run`.
    SelfUpdate {
        /// The upgrader's package.
        package: String,
        /// The installed version.
        from: String,
        /// The candidate version.
        to: String,
        /// Whether that is done.
        fate: Fate,
    },
    /// What would change is known.
    Planned {
        /// The product's name, as people write it.
        product: String,
        /// What would change.
        plan: Plan,
    },
    /// The question was answered with yes or not.
    Answered(bool),
    /// What dpkg was killed in the middle of is about to be finished.
    Repairing,
    /// A hook is about to run.
    HookBegan(Phase, String),
    /// Something in a hook directory is not run, for this reason.
    HookSkipped(Phase, String, String),
    /// A hook ran; if it failed, with this error.
    HookEnded(Phase, String, Result<(), String>),
    /// The database is about to be saved, because it is about to be migrated.
    DatabaseSaving {
        /// Its name.
        database: String,
        /// Where the dump goes.
        directory: String,
    },
    /// The database is saved.
    DatabaseSaved {
        /// The path of the dump.
        file: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The database with this name is about to be migrated.
    Migrating(String),
    /// Something among the migrations is not applied, for this reason.
    MigrationSkipped(String, String),
    /// A migration was applied; if it failed, with this error.
    Migrated(String, Result<(), String>),
    /// A product service is being restarted.
    ServiceRestarting(String),
    /// A product service is up and ready, or is not, for this reason.
    ServiceRestarted(String, Result<(), String>),
    /// The product services that are not running at the end of the run, with the state systemd gives.
    ServicesDown(Vec<(String, String)>),
    /// A line that an external program printed.
    Output {
        /// The program or hook.
        source: String,
        /// The line, without its end.
        line: String,
    },
    /// The run failed. What is known of the reason, and what to do.
    Failed(String),
    /// The run is over.
    Finished {
        /// The exit code.
        exit: Exit,
        /// One sentence for a person; empty when all has been said.
        message: String,
    },
}

/// What becomes of a newer version of the upgrader itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is installed.
    Installed,
    /// It is left alone by a dry run.
    DryRun,
    /// It is left alone because the admin holds the package.
    Held,
}

/// Somebody who wants to know what happens.
pub trait Reader {
    /// Takes note of an event. A reader that cannot (a full disk, a closed terminal) keeps quiet: the run goes on.
    fn read(&mut self, event: &Event);
}

/// The readers of a run's events.
#[derive(Default)]
pub struct Events<'a> {
    readers: Vec<Box<dyn Reader + 'a>>,
}

impl<'a> Events<'a> {
    /// One more reader.
    #[must_use]
    pub fn with(mut self, reader: impl Reader + 'a) -> Self {
        self.readers.push(Box::new(reader));
        self
    }

    /// Tells every reader.
    #[expect(clippy::needless_pass_by_value, reason = "events are made where they are told")]
    pub fn tell(&mut self, event: Event) {
        for reader in &mut self.readers {
            reader.read(&event);
        }
    }

    /// Where the lines of an external program go, under its name.
    pub fn output_of(&mut self, source: &str) -> impl FnMut(&str) {
        let source = source.to_owned();
        move |line| self.tell(Event::Output { source: source.clone(), line: line.to_owned() })
    }
}
