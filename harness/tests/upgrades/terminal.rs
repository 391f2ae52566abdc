//! Tests of the harness: its terminal emulator.

use anyhow::{Result, ensure};
use harness::machines::image::Debian;
use harness::machines::transcript::HUNG_UP;
use harness::machines::world::World;

use crate::detached::while_running;
use crate::scenario::scenarios;

scenarios! {
    /// The tests see of a terminal what an admin sees: overwritten text is gone, and programs notice when it hangs up.
    Checked terminal_is_realistic;
}

fn terminal_is_realistic(debian: Debian) -> Result<()> {
    let world = World::boot(debian)?;
    let bash = |script: &str| world.machine.command(&["bash", "-c", script]);
    let seen = bash("tty -s && stty size && echo $TERM && tput cols; printf '10 %%\\r\\033[K\\033[1m20 %%\\033[0m\\n'")
        .at_terminal()
        .run()?;
    ensure!(seen.screen == "1000 200\nxterm\n200\n20 %\n" && seen.exit == 0, "{seen}");
    let asked = bash("read -p 'Who? ' who; printf 'hello %s\\nmore\\n' $who; read -p 'Sure? ' sure; exit 4")
        .answer("Who? ", "you\n")
        .answer("Sure? ", "\u{3}")
        .run()?;
    ensure!(asked.screen == "Who? you\nhello you\nmore\nSure? ^C" && asked.exit == 130, "{asked}");

    // Two commands at once: one waits until the other has noticed the hang-up.
    let script = "trap 'echo hangup >/root/signal; trap \"\" HUP; echo x || echo closed >>/root/signal; exit' HUP
                  echo ready; while :; do sleep 0.05; done";
    let (lost, ()) = while_running(
        || bash(script).hang_up_after("ready\n").run(),
        || world.machine.wait_until("grep -s closed /root/signal"),
    )?;
    ensure!(lost.exit == HUNG_UP && lost.screen.starts_with("ready\n"), "{lost}");
    ensure!(world.machine.sh("cat /root/signal")? == "hangup\nclosed\n");
    Ok(())
}
