//! Builds the upgrader's own package.

mod changelog;
pub mod definition;
pub mod vendor;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap_complete::{Shell, generate};
use flate2::Compression;
use upgrader::system::hooks;

use crate::data::tree;
use crate::packages::binaries::{Binaries, architecture};
use crate::packages::deb::gzip;
use crate::packages::manual;
use crate::packages::package::Package;

/// The version of the upgrader in this tree.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The services of the product.toml that is shipped, in its order.
pub const SERVICES: [&str; 8] =
    ["postgresql", "dahdi", "xivo-confgend", "xivo-provd", "xivo-agid", "asterisk", "xivo-ctid", "nginx"];

/// A product that the upgrader is packaged for: the same programs under another name, with its own product.toml and hooks.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// NAME of the package and command `NAME-upgrade`; also the metapackage of its releases.
    pub name: &'a str,
    /// What people call it.
    pub title: &'a str,
    /// Who packages it.
    pub vendor: &'a str,
    /// The vendor's page about upgrades, if there is one.
    pub homepage: Option<&'a str>,
    /// The version of the package.
    pub version: &'a str,
    /// Its product.toml: an absolute path, or one in this tree.
    pub definition: &'a str,
    /// The directory in which its hooks' directories are and what else comes with product.toml, in the same way; `None` if there is
    /// none.
    pub hooks: Option<&'a str>,
}

/// The product that this tree is for.
pub const XIVO: Product<'static> = Product {
    name: "xivo",
    title: "XiVO",
    vendor: "XiVO upgrade team <upgrade@xivo.example>",
    homepage: Some("https://xivo.example/upgrade"),
    version: VERSION,
    definition: "upgrader/package/product.toml",
    hooks: Some("hooks"),
};

/// A product that shares nothing with XiVO but the programs.
pub const ACME: Product<'static> = Product {
    name: "acme",
    title: "Acme Gateway",
    vendor: "Acme <upgrade@acme.example>",
    homepage: Some("https://acme.example/upgrade"),
    version: VERSION,
    definition: "harness/products/acme/product.toml",
    hooks: Some("harness/products/acme/hooks"),
};

/// What hooks in Python need: tomllib came with 3.11.
const PYTHON: &str = "python3 (>= 3.11)";

const DESCRIPTION: &str = "One command refreshes the package lists, brings itself up to date, shows the
installed and the candidate version and everything that would change, asks
once, runs the pre-upgrade hooks, upgrades the packages, runs the post-upgrade
hooks and restarts every service in the right order.";

impl Product<'_> {
    /// The package that its upgrader is shipped in, and the command that admins type: `xivo-upgrade`.
    #[must_use]
    pub fn package(&self) -> String {
        format!("{}-upgrade", self.name)
    }

    /// The upgrader's own package, as it is shipped.
    pub fn upgrader(&self) -> Result<Package> {
        let binaries = Binaries::read()?;
        let name = self.package();
        let changelog = String::from_utf8(read("CHANGELOG.md")?)?;
        let changelog = changelog::newest(&changelog, &name, self.version, self.vendor)?;
        // The exceptions are those of the programs, whatever product they serve.
        let overrides = String::from_utf8(read("upgrader/package/lintian-overrides")?)?;
        let overrides = overrides.replace(&XIVO.package(), &name);
        let mut package = Package::new(&name, self.version)
            .file(&format!("/usr/bin/{name}"), binaries.upgrade, 0o755)
            .file(&format!("/usr/bin/real-{name}"), binaries.real_upgrade, 0o755)
            .file(&format!("/usr/share/{name}/product.toml"), read(self.definition)?, 0o644)
            .file(&format!("/usr/share/doc/{name}/copyright"), read("upgrader/package/copyright")?, 0o644)
            .file(&format!("/usr/share/doc/{name}/changelog.gz"), packed(changelog.as_bytes())?, 0o644)
            .file(&format!("/usr/share/lintian/overrides/{name}"), overrides, 0o644)
            .file(&format!("/usr/lib/systemd/system/{name}-resume.service"), resume_unit(&name), 0o644)
            .conffile(&format!("/etc/logrotate.d/{name}"), logrotate(&name))
            .conffile(&format!("/etc/{name}/config.toml"), manual::settings(&name))
            .file(&format!("/usr/share/man/man5/{name}-config.5.gz"), packed(&manual::of_settings(&name)?)?, 0o644);
        package.links.insert(
            format!("/usr/lib/systemd/system/multi-user.target.wants/{name}-resume.service"),
            format!("../{name}-resume.service"),
        );
        let second = manual::of_program(&format!("real-{name}"))?.into_iter().take(1);
        for (page, text) in manual::of_program(&name)?.into_iter().chain(second) {
            package = package.file(&format!("/usr/share/man/man8/{page}.gz"), packed(&text)?, 0o644);
        }
        for (shell, path) in [
            (Shell::Bash, format!("/usr/share/bash-completion/completions/{name}")),
            (Shell::Zsh, format!("/usr/share/zsh/vendor-completions/_{name}")),
            (Shell::Fish, format!("/usr/share/fish/vendor_completions.d/{name}.fish")),
        ] {
            package = package.file(&path, completion(shell, &name), 0o644);
        }
        // Before the first run, so that it is root's alone whatever the mask of that run is.
        package.private_directories.push(format!("/var/lib/{name}"));
        let mut depends = vec!["apt", "systemd"];
        for phase in ["pre-upgrade.d", "post-upgrade.d"] {
            package.directories.push(format!("/usr/share/{name}/{phase}"));
            package.directories.push(format!("/etc/{name}/{phase}"));
            let Some(hooks) = self.hooks.map(|hooks| tree(hooks).join(phase)).filter(|hooks| hooks.exists()) else {
                continue;
            };
            refuse_skipped_hooks(&hooks)?;
            for (hook, content, mode) in files(&hooks)? {
                if content.starts_with(b"#!/usr/bin/python3") && !depends.contains(&PYTHON) {
                    depends.push(PYTHON);
                }
                package = package.file(&format!("/usr/share/{name}/{phase}/{hook}"), content, mode);
            }
        }
        // What the hooks share and their settings, migrations, and what was validated; not every product has that.
        if let Some(hooks) = self.hooks.map(tree) {
            for directory in ["lib", "migrations", "validated"] {
                let shared = hooks.join(directory);
                for (file, content, _) in if shared.exists() { files(&shared)? } else { Vec::new() } {
                    package = package.file(&format!("/usr/share/{name}/{directory}/{file}"), content, 0o644);
                }
            }
            let settings = hooks.join("hooks.toml");
            if settings.exists() {
                package = package.conffile(&format!("/etc/{name}/hooks.toml"), fs::read(settings)?);
            }
        }
        architecture().clone_into(&mut package.architecture);
        "admin".clone_into(&mut package.section);
        package.description = format!("upgrade {} in one step\n{DESCRIPTION}", self.title);
        package = package.control("Depends", depends.join(", ")).control("Maintainer", self.vendor);
        Ok(self.homepage.into_iter().fold(package, |package, homepage| package.control("Homepage", homepage)))
    }
}

fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(tree(path)).with_context(|| path.to_owned())
}

fn packed(content: &[u8]) -> Result<Vec<u8>> {
    gzip(content, Compression::best())
}

/// The files in a directory of the tree, without those that are hidden: name, content, permissions.
fn files(directory: &Path) -> Result<Vec<(String, Vec<u8>, u32)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.file_type()?.is_file() {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            files.push((name, fs::read(entry.path())?, if executable { 0o755 } else { 0o644 }));
        }
    }
    files.sort();
    Ok(files)
}

/// Refuses files that the upgrader would skip in a directory of hooks, which the vendor would notice only at the first upgrade.
fn refuse_skipped_hooks(directory: &Path) -> Result<()> {
    let skipped = hooks::find(&[directory.to_owned()])?.skipped;
    match skipped.iter().find(|(path, _)| !hooks::name(path).starts_with('.')) {
        Some((path, reason)) => bail!("{}: {reason}, so upgrades would skip it", path.display()),
        None => Ok(()),
    }
}

/// The completion of the options in a shell, made from the command line itself.
fn completion(shell: Shell, program: &str) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut upgrader::cli::command(program.to_owned()), program, &mut script);
    script
}

/// What logrotate(8) does with the log. The newest old log is not packed before the next rotation, because a run that is under
/// way goes on writing to it.
fn logrotate(name: &str) -> String {
    format!(
        "/var/log/{name}.log {{\n\tweekly\n\trotate 12\n\tcompress\n\tdelaycompress\n\tmissingok\n\tnotifempty\n}}\n"
    )
}

/// The unit that resumes an interrupted upgrade at boot. It starts after the services because it restarts them.
fn resume_unit(name: &str) -> String {
    format!(
        "[Unit]\n\
         Description=Complete or roll back an interrupted upgrade\n\
         Documentation=man:{name}(8)\n\
         After=multi-user.target\n\
         ConditionPathExists=|/var/lib/{name}/journal\n\
         ConditionPathExists=|/var/lib/{name}/self-update\n\
         ConditionPathExists=|/var/lib/{name}/rollback\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart=/usr/bin/real-{name} {verb}\n\
         # It logs to the journal itself.\n\
         StandardOutput=null\n\
         # 4: rolled back. 6: done, but something needs attention. 7: another run was faster.\n\
         SuccessExitStatus=4 6 7\n\
         TimeoutStartSec=infinity\n\
         TimeoutStopSec=15min\n\
         KillMode=process\n\
         OOMPolicy=continue\n",
        verb = upgrader::context::RESUME,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_are_those_of_the_product() {
        let product = upgrader::config::product::Product::read(&tree(XIVO.definition)).unwrap();
        assert_eq!(product.services.order, SERVICES);
    }

    fn manual_text(program: &str) -> String {
        String::from_utf8(manual::of_program(program).unwrap().remove(0).1).unwrap()
    }

    #[test]
    fn every_option_of_the_command_line_is_completed_and_in_the_man_page() {
        let mut texts = vec![("the man page".to_owned(), manual_text("acme-upgrade"))];
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            texts.push((shell.to_string(), String::from_utf8(completion(shell, "acme-upgrade")).unwrap()));
        }
        let command = upgrader::cli::command("acme-upgrade".to_owned());
        let options: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
        assert!(options.contains(&"download-only"), "{options:?}");
        for (what, text) in texts {
            assert!(text.contains("acme-upgrade") || text.contains("acme\\-upgrade"), "{what} is of another command");
            for option in &options {
                assert!(text.contains(option) || text.contains(&option.replace('-', "\\-")), "{what} lacks --{option}");
            }
        }
    }

    #[test]
    fn products_share_no_file() {
        let paths = |product: Product| -> Vec<String> {
            product.upgrader().unwrap().files.into_iter().map(|file| file.path).collect()
        };
        let (ours, theirs) = (paths(XIVO), paths(ACME));
        assert!(ours.iter().all(|path| path.contains("xivo-upgrade")), "{ours:?}");
        assert!(theirs.iter().all(|path| path.contains("acme-upgrade")), "{theirs:?}");
    }
}
