//! A repository's signing key.

use anyhow::{Context, Result};
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::ser::Serialize as _;
use pgp::types::Password;
use rand::rngs::OsRng;

/// A repository's signing key. Each repository has its own, which exists only in memory.
#[derive(Debug)]
pub struct Key(SignedSecretKey);

impl Key {
    /// Makes a key. Ed25519 in the old format: both gpgv (apt 2.6) and sqv (apt 3.0) accept it.
    pub fn generate() -> Result<Self> {
        let parameters = SecretKeyParamsBuilder::default()
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .primary_user_id("Test repository <repository@xivo.example>".to_owned())
            .build()
            .context("the parameters of a key")?;
        Ok(Self(parameters.generate(OsRng)?))
    }

    /// The public half, as apt's `Signed-By` takes it.
    pub fn public(&self) -> Result<Vec<u8>> {
        Ok(self.0.to_public_key().to_bytes()?)
    }

    /// What goes into `Release.gpg`: a signature of the text, beside it.
    pub fn detached(&self, text: &str) -> Result<Vec<u8>> {
        let signature = DetachedSignature::sign_binary_data(
            OsRng,
            &self.0.primary_key,
            &Password::empty(),
            HashAlgorithm::Sha256,
            text.as_bytes(),
        )?;
        Ok(signature.to_armored_bytes(ArmorOptions::default())?)
    }

    /// What goes into `InRelease`: the text with its signature around it.
    pub fn cleartext(&self, text: &str) -> Result<Vec<u8>> {
        let message = CleartextSignedMessage::sign(OsRng, text, &self.0.primary_key, &Password::empty())?;
        Ok(message.to_armored_bytes(ArmorOptions::default())?)
    }
}
