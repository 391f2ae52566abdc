use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;

use crate::binaries::{Binaries, architecture};
use crate::deb::gzip;
use crate::package::Package;

/// The package that the upgrader is shipped in, and the command that admins type.
pub const UPGRADER: &str = "xivo-upgrade";

/// The version of the upgrader in this tree.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The services of the product.toml that is shipped, in its order.
pub const SERVICES: [&str; 8] =
    ["postgresql", "dahdi", "xivo-confgend", "xivo-provd", "xivo-agid", "asterisk", "xivo-ctid", "nginx"];

const DESCRIPTION: &str = "upgrade a XiVO in one step
One command refreshes the package lists, brings itself up to date, shows the
installed and the candidate version and everything that would change, asks
once, runs the pre-upgrade hooks, upgrades the packages, runs the post-upgrade
hooks and restarts every service in the right order.";

/// The upgrader's own package, as it is shipped.
pub fn upgrader() -> Result<Package> {
    let binaries = Binaries::read()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read(root.join(path)).with_context(|| path.to_owned());
    let mut package = Package::new(UPGRADER, VERSION)
        .file("/usr/bin/xivo-upgrade", binaries.upgrade, 0o755)
        .file("/usr/bin/real-xivo-upgrade", binaries.real_upgrade, 0o755)
        .file("/usr/share/xivo-upgrade/product.toml", read("upgrader/package/product.toml")?, 0o644)
        .file("/usr/share/doc/xivo-upgrade/copyright", read("upgrader/package/copyright")?, 0o644)
        .file("/usr/share/doc/xivo-upgrade/changelog.gz", gzip(changelog().as_bytes(), Compression::best())?, 0o644)
        .file("/usr/share/lintian/overrides/xivo-upgrade", read("upgrader/package/lintian-overrides")?, 0o644);
    for program in ["xivo-upgrade", "real-xivo-upgrade"] {
        package = package.file(
            &format!("/usr/share/man/man8/{program}.8.gz"),
            gzip(&manual(program)?, Compression::best())?,
            0o644,
        );
    }
    for phase in ["pre-upgrade.d", "post-upgrade.d"] {
        package.directories.push(format!("/usr/share/xivo-upgrade/{phase}"));
        package.directories.push(format!("/etc/xivo-upgrade/{phase}"));
        for (name, content, mode) in hooks(&root.join("hooks").join(phase))? {
            package = package.file(&format!("/usr/share/xivo-upgrade/{phase}/{name}"), content, mode);
        }
    }
    architecture().clone_into(&mut package.architecture);
    "admin".clone_into(&mut package.section);
    DESCRIPTION.clone_into(&mut package.description);
    package.control.insert("Depends".to_owned(), "apt, systemd".to_owned());
    package.control.insert("Homepage".to_owned(), "https://xivo.example/upgrade".to_owned());
    Ok(package)
}

/// The hooks in a directory of the tree: name, content, permissions.
fn hooks(directory: &Path) -> Result<Vec<(String, Vec<u8>, u32)>> {
    let mut hooks = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            hooks.push((name, fs::read(entry.path())?, if executable { 0o755 } else { 0o644 }));
        }
    }
    hooks.sort();
    Ok(hooks)
}

/// The man page, made from the command line itself.
fn manual(program: &str) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let command = upgrader::cli::command(program.to_owned());
    clap_mangen::Man::new(command).section("8").manual("System administration").render(&mut page)?;
    Ok(page)
}

/// The Debian changelog. What changed for whom is in CHANGELOG.md.
fn changelog() -> String {
    format!(
        "{UPGRADER} ({VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md of the project.\n\n \
         -- XiVO upgrade team <upgrade@xivo.example>  Sun, 01 Jan 2012 00:00:00 +0000\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_are_those_of_the_product() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../upgrader/package/product.toml");
        let product = upgrader::product::Product::read(&root).unwrap();
        assert_eq!(product.services.order(), SERVICES);
    }
}
