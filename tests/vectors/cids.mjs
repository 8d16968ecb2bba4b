// Makes cids.json with an implementation that is not ours: the importer of Helia (js-ipfs before it).
//
//   npm install ipfs-unixfs-importer@17.1.1        (in a folder of its own; Node 20 or later)
//   node cids.mjs > cids.json                      (from that folder)
//
// Content of size n: the first n bytes of SHA-256(0) ‖ SHA-256(1) ‖ ..., each counter in four bytes, big-endian.

import { createHash } from 'node:crypto'
import { importBytes } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'

const MIB = 1 << 20
const PROFILE = { chunk: MIB, links: 1024 } // unixfs-v1-2025
const KUBO = { chunk: MIB / 4, links: 174 } // ipfs add --cid-version=1
const SMALL = { chunk: 1000, links: 3 } // many levels from few bytes

const CASES = [
  ...[0, 1, 1000, 262144, MIB - 1, MIB, MIB + 1, 2 * MIB, 5_000_001, 10 * MIB].map(n => [n, PROFILE]),
  ...[262144, 262145, 3_000_000].map(n => [n, KUBO]),
  ...[0, 1000, 1001, 3000, 3001, 9000, 9001, 27_000, 27_001, 100_000].map(n => [n, SMALL])
]

function content (size) {
  const hashes = []
  const counter = Buffer.alloc(4)
  for (let i = 0; i * 32 < size; i++) {
    counter.writeUInt32BE(i)
    hashes.push(createHash('sha256').update(counter).digest())
  }
  return Buffer.concat(hashes).subarray(0, size)
}

const nowhere = { put: async cid => cid }
const files = []
for (const [size, { chunk, links }] of CASES) {
  const { cid } = await importBytes(content(size), nowhere, {
    cidVersion: 1,
    rawLeaves: true,
    reduceSingleLeafToSelf: true,
    chunker: fixedSize({ chunkSize: chunk }),
    layout: balanced({ maxChildrenPerNode: links })
  })
  files.push({ size, chunk_bytes: chunk, max_links: links, cid: cid.toString() })
}
process.stdout.write(JSON.stringify({ made_by: 'cids.mjs, with ipfs-unixfs-importer 17.1.1', files }, null, 2) + '\n')
