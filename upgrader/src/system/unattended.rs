//! The settings that keep package tools from asking questions.

use crate::model::policy::ConffilePolicy;
use crate::system::command::Program;

/// A program that changes packages without questions of debconf, ucf, apt-listchanges or needrestart.
pub(crate) fn unattended(program: Program, conffiles: ConffilePolicy) -> Program {
    let ucf = match conffiles {
        ConffilePolicy::Replace => "UCF_FORCE_CONFFNEW",
        ConffilePolicy::Keep => "UCF_FORCE_CONFFOLD",
    };
    program
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBIAN_PRIORITY", "critical")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        .env("NEEDRESTART_SUSPEND", "1")
        .env("PAGER", "cat")
        .env(ucf, "1")
}

/// The options that keep dpkg from asking about conffiles. They first cancel the options of the machine's configuration, which would
/// otherwise win.
pub(crate) fn dpkg_options(conffiles: ConffilePolicy) -> [&'static str; 2] {
    let policy = match conffiles {
        ConffilePolicy::Replace => "--force-confnew",
        ConffilePolicy::Keep => "--force-confold",
    };
    ["--no-force-confdef,confold,confnew", policy]
}
