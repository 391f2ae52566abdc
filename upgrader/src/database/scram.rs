//! Passwords of PostgreSQL for one session, and what the server stores of them (SCRAM-SHA-256, RFC 5803).

use anyhow::{Context as _, Result};
use rustix::rand::GetRandomFlags;
use sha2::{Digest as _, Sha256};

/// `scram_iterations`, the server's default. A random password needs no more.
const ITERATIONS: u32 = 4096;

/// A random password of 256 bits, and its verifier. The verifier is what the server gets to see: a log of statements
/// never has the password.
pub(super) fn password() -> Result<(String, String)> {
    let mut random = [0; 48];
    // Up to 256 bytes come at once (getrandom(2)).
    rustix::rand::getrandom(&mut random, GetRandomFlags::empty()).context("no random bytes")?;
    let (secret, salt) = random.split_at(32);
    let password = base64(secret);
    let verifier = verifier(&password, salt, ITERATIONS);
    Ok((password, verifier))
}

/// `SCRAM-SHA-256$4096:SALT$STOREDKEY:SERVERKEY`, as in `pg_authid.rolpassword`.
fn verifier(password: &str, salt: &[u8], iterations: u32) -> String {
    let mut block = hmac(password.as_bytes(), &[salt, &[0, 0, 0, 1]].concat());
    let mut salted = block;
    for _ in 1..iterations {
        block = hmac(password.as_bytes(), &block);
        salted.iter_mut().zip(block).for_each(|(byte, other)| *byte ^= other);
    }
    let stored = sha256(&[&hmac(&salted, b"Client Key")]);
    let server = hmac(&salted, b"Server Key");
    format!("SCRAM-SHA-256${iterations}:{}${}:{}", base64(salt), base64(&stored), base64(&server))
}

/// HMAC-SHA-256 (RFC 2104) with a key of up to 64 bytes.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let padded = |pad: u8| {
        let mut block = [pad; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    sha256(&[&padded(0x5c), &sha256(&[&padded(0x36), message])])
}

#[inline(never)]
fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * index) & 63];
            text.push(if index > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_verifier_has_the_keys_of_rfc_7677() {
        // The example of RFC 7677 has the password "pencil", this salt and this ServerSignature.
        let salt = [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];
        let verifier = verifier("pencil", &salt, 4096);
        assert_eq!(
            verifier,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn a_password_is_another_each_time_and_not_in_its_verifier() {
        let ((first, verifier), (second, _)) = (password().expect("random"), password().expect("random"));
        assert_eq!(first.len(), 44);
        assert_ne!(first, second);
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:") && !verifier.contains(&first));
    }
}
