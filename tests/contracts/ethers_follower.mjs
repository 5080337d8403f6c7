// A follower that shares no code with the contract: it plays every kind of change, folds the log of
// NodeChanged with ethers' own ABI coder, and reports its result beside the contract's.
//
//     node ethers_follower.mjs RPC_URL CONTRACT
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../contracts/package.json", import.meta.url));
const { AbiCoder, Contract, Interface, JsonRpcProvider, encodeBytes32String, keccak256 } = require("ethers");

const artifact = new URL("../../src/dstack_vpn/chain/abi/DstackAccessNFT.json", import.meta.url);
const { abi } = JSON.parse(readFileSync(artifact, "utf8"));
const NODE =
  "tuple(uint256 tokenId, address holder, string nodeId, bytes32 key, string endpoint, bytes32 role, " +
  "uint64 createdAt, uint64 expiresAt, bool revoked, bool suspended)";
const encode = (types, values) => AbiCoder.defaultAbiCoder().encode(types, values);

const [url, address] = process.argv.slice(2);
const provider = new JsonRpcProvider(url, undefined, { staticNetwork: true, pollingInterval: 20, cacheTimeout: -1 });
const [owner, ann, ben] = await Promise.all([0, 1, 2].map((i) => provider.getSigner(i)));
const as = (signer) => new Contract(address, abi, signer);
const key = (n) => Buffer.alloc(32, n);
const text = (n) => key(n).toString("base64");
const sent = async (transaction) => (await transaction).wait();

await sent(as(owner).mintNodeAccess(ann.address, "node-a", text(1), "ipfs://a"));
await sent(as(owner).mintNodeAccess(ben.address, "node-b", "", ""));
await sent(as(ben).setPublicKey(2, text(2)));
await sent(as(ben).setEndpoint(2, 'quotes " and\nlines \u00fc \u202e'));
await sent(as(owner).setRole(1, encodeBytes32String("hub")));
await sent(as(owner).renewNodeAccess(1, 2n ** 64n - 1n));
await sent(as(ann).transferFrom(ann.address, ben.address, 1));
await sent(as(owner).revokeNodeAccess(2));
await sent(as(owner).releaseKey(key(2)));
await sent(as(owner).restoreNodeAccess(2));
await sent(as(owner).mintNodeAccess(ann.address, "node-c", text(2), ""));
await sent(as(ben).burn(1));

const { chainId } = await provider.getNetwork();
const folded = { history: keccak256(encode(["uint256", "address"], [chainId, address])), revision: 0n };
const nodes = [];
const published = new Interface(abi);
for (const log of await provider.getLogs({ address, fromBlock: 0 })) {
  const event = published.parseLog(log);
  if (event?.name !== "NodeChanged") continue;
  const { revision, tokenId, node } = event.args;
  const values = [folded.history, revision, log.blockNumber, node];
  folded.history = keccak256(encode(["bytes32", "uint64", "uint256", NODE], values));
  folded.revision = revision;
  nodes[tokenId] = node;
}
folded.page = keccak256(encode([`${NODE}[]`], [nodes.slice(1)]));
folded.memberCount = nodes.filter((node) => node && BigInt(node.key) && !node.revoked && !node.suspended).length;

const contract = as(owner);
const { revision, history, memberCount } = await contract.checkpoint();
const reported = { history, revision, page: await contract.hashNodes(1, 500), memberCount };
console.log(JSON.stringify({ folded, reported }, (_, value) => (typeof value === "bigint" ? Number(value) : value)));
provider.destroy();
