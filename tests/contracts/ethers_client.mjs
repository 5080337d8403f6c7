// A client from before: an ERC-721 wallet that knows the membership contract by its first published
// interface only. It admits two nodes, reads all there is to read, passes one on, revokes the other, and
// reports what it saw.
//
//     node ethers_client.mjs RPC_URL CONTRACT
import { createRequire } from "node:module";

const require = createRequire(new URL("../../contracts/package.json", import.meta.url));
const { Contract, JsonRpcProvider } = require("ethers");

const PUBLISHED = [
  "event NodeAccessGranted(uint256 indexed tokenId, string nodeId, address indexed owner, string wireguardPublicKey)",
  "event NodeAccessRevoked(uint256 indexed tokenId, string nodeId)",
  "event NodeAccessTransferred(uint256 indexed tokenId, address indexed from, address indexed to)",
  "event PublicKeyUpdated(address indexed owner, string wireguardPublicKey)",
  "event OwnershipTransferInitiated(address indexed previousOwner, address indexed newOwner)",
  "function mintNodeAccess(address to, string nodeId, string wireguardPublicKey, string tokenURI) returns (uint256)",
  "function revokeNodeAccess(uint256 tokenId)",
  "function transferContractOwnership(address newOwner)",
  "function getNodeAccess(uint256 tokenId) view returns (string nodeId, string wireguardPublicKey, uint256 createdAt, bool isActive)",
  "function hasNodeAccess(address user, string nodeId) view returns (bool)",
  "function verifyAccess(address user, string nodeId) view returns (bool)",
  "function getTokenIdByNodeId(string nodeId) view returns (uint256)",
  "function getPublicKeyByOwner(address owner) view returns (string)",
  "function getPublicKeyByTokenId(uint256 tokenId) view returns (string)",
  "function ownerOf(uint256) view returns (address)",
  "function tokenURI(uint256) view returns (string)",
];
const ERC721 = [
  "event Transfer(address indexed from, address indexed to, uint256 indexed tokenId)",
  "function transferFrom(address from, address to, uint256 tokenId)",
];
// Setting a key is not in the published interface: this is what the buyer of a token does with a newer client.
const NEWER = ["function setPublicKey(uint256 tokenId, string wireguardPublicKey)"];

const [url, address] = process.argv.slice(2);
const provider = new JsonRpcProvider(url, undefined, { staticNetwork: true, pollingInterval: 20, cacheTimeout: -1 });
const [owner, ann, ben, next] = await Promise.all([0, 1, 2, 3].map((i) => provider.getSigner(i)));
const contract = new Contract(address, PUBLISHED, owner);

const key = (n) => Buffer.alloc(32, n).toString("base64");
const sent = async (transaction) => (await transaction).wait();

const report = { people: { owner: owner.address, ann: ann.address, ben: ben.address, next: next.address } };
report.promisedTokenId = await contract.mintNodeAccess.staticCall(ann.address, "node-a", key(1), "ipfs://a");
await sent(contract.mintNodeAccess(ann.address, "node-a", key(1), "ipfs://a"));
await sent(contract.mintNodeAccess(ben.address, "node-b", key(2), ""));
report.admitted = { a: await read(1, "node-a", ann), b: await read(2, "node-b", ben) };
report.strangers = {
  otherUser: await contract.hasNodeAccess(ben.address, "node-a"),
  unknownNode: await contract.verifyAccess(ann.address, "nobody"),
  unknownName: await contract.getTokenIdByNodeId("nobody"),
  unknownOwner: await contract.getPublicKeyByOwner(next.address),
};

await sent(contract.revokeNodeAccess(1));
report.revoked = await read(1, "node-a", ann);

await sent(new Contract(address, ERC721, ben).transferFrom(ben.address, ann.address, 2));
report.passedOn = await read(2, "node-b", ann);
await sent(new Contract(address, NEWER, ann).setPublicKey(2, key(3)));
report.keySet = await read(2, "node-b", ann);

await sent(contract.transferContractOwnership(next.address));

// All that this client can see of what happened, in the order of the log.
const logs = await provider.getLogs({ address, fromBlock: 0 });
const known = new Contract(address, [...PUBLISHED, ERC721[0]]).interface;
report.events = logs
  .map((log) => known.parseLog(log))
  .filter((event) => event !== null)
  .map((event) => [event.name, ...event.args]);

console.log(JSON.stringify(report, (_, value) => (typeof value === "bigint" ? Number(value) : value)));
provider.destroy();

async function read(tokenId, nodeId, user) {
  const access = await contract.getNodeAccess(tokenId);
  return {
    ...access.toObject(),
    hasNodeAccess: await contract.hasNodeAccess(user.address, nodeId),
    verifyAccess: await contract.verifyAccess(user.address, nodeId),
    tokenId: await contract.getTokenIdByNodeId(nodeId),
    keyOfOwner: await contract.getPublicKeyByOwner(user.address),
    keyOfToken: await contract.getPublicKeyByTokenId(tokenId),
    owner: await contract.ownerOf(tokenId),
    uri: await contract.tokenURI(tokenId),
  };
}
