// What mends an error of a module that cannot be loaded, with the command. Loaded only when a bot has failed.
//
// It goes by the code of the error. Which module it is, Node says only in the message.
"use strict";

const { builtinModules } = require("module");

const MOST_ERRORS = 10;
const PACKAGE = /^(@[a-z0-9~-][a-z0-9._~-]*\/)?[a-z0-9~-][a-z0-9._~-]*$/i;

function hintFor(error) {
  for (let depth = 0; depth < MOST_ERRORS && typeof error === "object" && error !== null; depth++) {
    const hint = hintForOne(error);
    if (hint) return hint;
    error = error.cause;
  }
  return "";
}

function hintForOne(error) {
  switch (error.code) {
    case "MODULE_NOT_FOUND":
    case "ERR_MODULE_NOT_FOUND":
      return missing(/'([^']+)'/.exec(error.message)?.[1] ?? "");
    case "ERR_DLOPEN_FAILED":
      return compiledElsewhere(error);
  }
  return "";
}

function missing(specifier) {
  const parts = specifier.split("/");
  const name = parts.slice(0, specifier.startsWith("@") ? 2 : 1).join("/");
  // A file of the bot's own is named by a path. What is no name of a package must not become a part of a command.
  if (!PACKAGE.test(name) || builtinModules.includes(name)) return "";
  return (
    `module '${name}' is not in the archive; add the package in the folder of the bot and deploy again with ` +
    `node_modules: npm install ${name}`
  );
}

function compiledElsewhere(error) {
  const name = /node_modules\/((?:@[^/\s]+\/)?[^/\s]+)\/(?!.*node_modules\/)/.exec(error.message)?.[1] ?? "";
  const what = PACKAGE.test(name) ? `the compiled part of '${name}'` : "a compiled module";
  const version = process.versions.node.split(".")[0];
  return (
    `${what} does not suit Node ${version} on Alpine Linux, which has musl and no glibc (no ld-linux-x86-64.so.2); ` +
    `install the packages in that image and deploy again: ` +
    `rm -rf node_modules && docker run --rm -v "$PWD":/bot -w /bot node:${version}-alpine npm install`
  );
}

module.exports = { hintFor };
