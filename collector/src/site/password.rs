//! Passwords: argon2id, as PHC strings.

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};

/// Why a password could not be hashed or made.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: check that getrandom is allowed")]
    Random(#[from] getrandom::Error),
    /// The hash function refused.
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
}

/// A new random password: 26 letters and digits, 130 random bits.
pub fn generate() -> Result<String, PasswordError> {
    let mut random = [0; 17];
    getrandom::fill(&mut random)?;
    let mut text = data_encoding::BASE32_NOPAD.encode(&random).to_ascii_lowercase();
    text.truncate(26);
    Ok(text)
}

/// The hash to keep. Takes tens of milliseconds and 19 MiB on purpose.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let salt = SaltString::encode_b64(&random).map_err(PasswordError::Hash)?;
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt).map_err(PasswordError::Hash)?.to_string())
}

/// Whether a password is the one that was hashed.
pub fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_that_was_hashed_verifies() {
        let password = generate().unwrap();
        assert_eq!(password.len(), 26);
        let kept = hash(&password).unwrap();
        assert!(kept.starts_with("$argon2id$"), "{kept}");
        assert!(verify(&password, &kept));
        assert!(!verify("another", &kept));
        assert!(!verify(&password, "no hash"));
    }
}
