// XChaCha20-Poly1305 of Zig's standard library, for the link of a pod (link.c).
const std = @import("std");
const Aead = std.crypto.aead.chacha_poly.XChaCha20Poly1305;

export fn seal(out: [*]u8, tag: *[16]u8, text: [*]const u8, size: usize, about: [*]const u8, about_size: usize, nonce: *const [24]u8, key: *const [32]u8) void {
    Aead.encrypt(out[0..size], tag, text[0..size], about[0..about_size], nonce.*, key.*);
}

// False, with nothing written, when the text was not sealed with this key, nonce and context.
export fn unseal(out: [*]u8, tag: *const [16]u8, text: [*]const u8, size: usize, about: [*]const u8, about_size: usize, nonce: *const [24]u8, key: *const [32]u8) bool {
    Aead.decrypt(out[0..size], text[0..size], tag.*, about[0..about_size], nonce.*, key.*) catch return false;
    return true;
}
