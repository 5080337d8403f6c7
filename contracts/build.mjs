// Compiles the contract from nothing and writes what the Python package ships of it.
//
//     node contracts/build.mjs [FILE]
//
// The same sources give the same bytes: the code carries no metadata, the keys of the JSON are sorted.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { keccak256 } from "ethers";

const NAME = "DstackAccessNFT";
const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, `../src/dstack_vpn/chain/abi/${NAME}.json`));

const compiled = compile();
const artifact = {
  contractName: NAME,
  abi: compiled.abi,
  // What a deployment sends.
  bytecode: compiled.bytecode.object,
  // What every deployment then has as its code hash (EIP-1052): no part of the code depends on the deployment.
  deployedBytecodeHash: keccak256(compiled.deployedBytecode.object),
};
writeFileSync(target, JSON.stringify(artifact, sortKeys, 2) + "\n");

function compile() {
  const out = mkdtempSync(join(tmpdir(), "dstack-vpn-contracts-"));
  try {
    const places = ["--out", out, "--cache-path", join(out, "cache")];
    const forge = join(here, "node_modules/.bin/forge");
    // Standard error, so that a caller who reads standard output is not in the way of compiler warnings.
    execFileSync(forge, ["build", "src", "--force", ...places], { cwd: here, stdio: ["ignore", 2, 2] });
    return JSON.parse(readFileSync(join(out, `${NAME}.sol`, `${NAME}.json`), "utf8"));
  } finally {
    rmSync(out, { recursive: true });
  }
}

function sortKeys(_, value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
