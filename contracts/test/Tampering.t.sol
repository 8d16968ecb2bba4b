// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {Cids} from "../src/libraries/Cids.sol";
import {ProofObject} from "../src/libraries/ProofObject.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice A library reads calldata, so it takes a call to get there.
contract ProofReader {
    function modelHashAt(bytes calldata proof, uint256 offset) external pure returns (bool, bytes32) {
        return ProofObject.modelHashAt(proof, offset);
    }
}

/// @notice Proof objects that name another model. Branches: tree/reportTampering.tree.
contract TamperingTest is CourtNetwork {
    bytes32 private constant MODEL = hex"e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
    string private constant HEX = "e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
    /// What `shared.documents.encode_proof` makes, and its CID by `shared.content.cid`.
    string private constant PROOF = '{"cardCid":"bafkreiedm7gwn7org252rord7cafxmcq3vrisqa4r3b3bpseupbdh3xzbu",'
        '"engine":{"device":"cpu","provider":"CPUExecutionProvider","runtime":"onnxruntime","version":"1.22.0"},'
        '"inputCid":"bafkreiedm7gwn7org252rord7cafxmcq3vrisqa4r3b3bpseupbdh3xzbu",'
        '"modelHash":"0xe0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",'
        '"output":{"kind":"text","prompt":[256,1,2],"stop":"length","tokens":[3,4]},'
        '"taskId":"0x7461736b00000000000000000000000000000000000000000000000000000000","version":1}';
    string private constant CID = "bafkreiefz43l67gn5f6qlngz67imozvwhwlnjgqj7y3asdkrp2usnl4oii";
    string private constant DAG_PB_CID = "bafybeiefz43l67gn5f6qlngz67imozvwhwlnjgqj7y3asdkrp2usnl4oii";
    uint256 private constant OFFSET = 249;

    ProofReader private reader = new ProofReader();
    bytes private noTampering = refusal(ISlashingCourt.NoTampering.selector, "task");

    function test_reportTampering_QueuesForAProofWithAnotherModel() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = signedInfo(CID);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.TAMPERING, "task", performer);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashQueued(
            slashId, "task", performer, ISlashingCourt.Offence.TAMPERING, uint64(block.timestamp) + DISPUTE_WINDOW
        );
        vm.prank(address(0xdead)); // anyone
        assertEq(court.reportTampering(info, signature, bytes(PROOF), OFFSET), slashId, "slash id");
        assertQueued(slashId, ISlashingCourt.Offence.TAMPERING, "task", performer, DISPUTE_WINDOW);
        assertUnnamed(slashId);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportTampering(info, signature, bytes(PROOF), OFFSET);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), PERFORMER_STAKE, "all of it");
    }

    function test_reportTampering_RevertsForTheDefinitionsOwnModel() public {
        vm.prank(owner);
        uint16 honest = center.createTaskDefinition("same", "text", MODEL, "bafkrei", terms());
        (IAttestationCenter.TaskInfo memory info,) = signedInfo(CID);
        info.taskDefinitionId = honest;
        bytes memory signature = ecdsaSignature(PERFORMER_ID, center.taskInfoHash(info));
        vm.expectRevert(noTampering);
        court.reportTampering(info, signature, bytes(PROOF), OFFSET);
    }

    function test_reportTampering_RevertsForWhatThePerformerDidNotSign() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = signedInfo(CID);
        info.data = "another answer";
        bytes memory mismatch = abi.encodeWithSelector(ISlashingCourt.PerformerSignatureMismatch.selector, performer);
        vm.expectRevert(mismatch);
        court.reportTampering(info, signature, bytes(PROOF), OFFSET);
        (info,) = signedInfo(CID);
        signature = ecdsaSignature(1, center.taskInfoHash(info));
        vm.expectRevert(mismatch);
        court.reportTampering(info, signature, bytes(PROOF), OFFSET);
    }

    function test_reportTampering_RevertsForOtherBytesThanTheCidNames() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = signedInfo(CID);
        vm.expectRevert(noTampering);
        court.reportTampering(info, signature, bytes.concat(bytes(PROOF), " "), OFFSET);
        vm.expectRevert(noTampering);
        court.reportTampering(info, signature, "", 0);
    }

    function test_reportTampering_RevertsForAnotherKindOfCid() public {
        expectNone(DAG_PB_CID);
        expectNone("BAFKREIEFZ43L67GN5F6QLNGZ67IMOZVWHWLNJGQJ7Y3ASDKRP2USNL4OII");
        expectNone("bafkreiefz43l67gn5f6qlngz67imozvwhwlnjgqj7y3asdkrp2usnl4oij"); // bits behind the last byte
        expectNone("");
    }

    function test_reportTampering_RevertsAtAnotherOffset() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = signedInfo(CID);
        uint256[6] memory offsets = [0, OFFSET - 1, OFFSET + 1, bytes(PROOF).length, 2 ** 64, type(uint256).max];
        for (uint256 i = 0; i < offsets.length; ++i) {
            vm.expectRevert(noTampering);
            court.reportTampering(info, signature, bytes(PROOF), offsets[i]);
        }
    }

    function test_reportTampering_RevertsForAnUnknownDefinition() public {
        (IAttestationCenter.TaskInfo memory info,) = signedInfo(CID);
        info.taskDefinitionId = 77;
        bytes memory signature = ecdsaSignature(PERFORMER_ID, center.taskInfoHash(info));
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 77));
        court.reportTampering(info, signature, bytes(PROOF), OFFSET);
    }

    function test_reportTampering_BoundsTheProof() public {
        (IAttestationCenter.TaskInfo memory info,) = signedInfo("");
        bytes memory largest = new bytes(262_144);
        info.proofOfTask = string(Cids.ofRawBlock(sha256(largest)));
        bytes memory signature = ecdsaSignature(PERFORMER_ID, center.taskInfoHash(info));
        vm.expectRevert(noTampering);
        court.reportTampering(info, signature, largest, 1);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.ProofTooLarge.selector, 262_145, 262_144));
        court.reportTampering(info, signature, new bytes(262_145), 1);
    }

    function test_reportTampering_TakesTheLargestProof() public {
        bytes memory start = bytes.concat('{"modelHash":"0x', bytes(HEX), '","padding":"');
        bytes memory proof = bytes.concat(start, new bytes(262_144 - start.length));
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) =
            signedInfo(string(Cids.ofRawBlock(sha256(proof))));
        bytes32 slashId = court.reportTampering(info, signature, proof, 1);
        assertQueued(slashId, ISlashingCourt.Offence.TAMPERING, "task", performer, DISPUTE_WINDOW);
    }

    // --- what stands where -------------------------------------------------------------------------------------------

    function test_modelHashAt_ReadsTheFirstMemberAndLaterOnes() public view {
        assertFound("{", "}");
        assertFound('{"a":1,', "}");
        assertFound('{"a":{"b":[1,{"c":"}"}]},', ',"z":0}');
        assertFound('{"a":"{[,",', "}");
        assertFound('{"a":"\\"",', "}");
        assertFound('{"a":"\\\\",', "}");
        assertFound('{"a":"\\\\\\"",', "}");
        assertFound('{"a":[],', "");
    }

    function test_modelHashAt_IsNotFooledByText() public view {
        // A prompt that spells the member: its quotes are escaped, and unescaped ones would end the string.
        assertNone('{"a":"\\', '"}');
        assertNone('{"a":",', '"}');
        assertNone('{"a":"{', '"}');
        assertNone('{"a":"\\\\\\",', '"}');
        assertNone('{"a":"\\",', '"}');
    }

    function test_modelHashAt_IsNotFooledByNestedObjects() public view {
        assertNone('{"a":{', "}}");
        assertNone('{"a":{"b":1,', "}}");
        assertNone('{"a":[{', "}]}");
        assertNone('{"a":[1,', "]}");
        assertNone('{"a":[{"b":{}},', "]}");
    }

    function test_modelHashAt_ReadsNothingOutsideTheObject() public view {
        assertNone("", "}");
        assertNone("[{", "}]");
        assertNone(" {", "}");
        assertNone('{"a":1},', "");
        assertNone('{"a":1}{', "}");
        assertNone("{},{", "}");
        assertNone("]{", "}");
        assertNone('"a",', "}");
    }

    function test_modelHashAt_ReadsMembersNotValues() public view {
        assertNone('{"a":', "}");
        assertNone("{ ", "}");
        assertNone('{"a":1, ', "}");
        assertNone('{"a":{}', "}");
    }

    function test_modelHashAt_ReadsSixtyFourLowerCaseDigits() public view {
        string memory digits = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee";
        (bool isFound, bytes32 hash) = read("{", string.concat(digits, "f9"), '"}');
        assertTrue(isFound, "digits");
        assertEq(hash, hex"00112233445566778899aabbccddeeff00112233445566778899aabbccddeef9", "hash");
        string[8] memory bad = ["fF", "f:", "f/", "f`", "fg", "\"f", "f", "f00"];
        for (uint256 i = 0; i < bad.length; ++i) {
            (isFound, hash) = read("{", string.concat(digits, bad[i]), '"}');
            assertTrue(!isFound && hash == 0, bad[i]);
        }
    }

    function test_modelHashAt_ReadsNothingBeyondTheEnd() public view {
        bytes memory proof = bytes.concat('{"modelHash":"0x', bytes(HEX), '"');
        (bool isFound,) = reader.modelHashAt(proof, 1);
        assertTrue(isFound, "the whole member");
        bytes memory cut = bytes.concat('{"modelHash":"0x', bytes(HEX));
        (isFound,) = reader.modelHashAt(cut, 1);
        assertTrue(!isFound, "without its last quote");
        (isFound,) = reader.modelHashAt("{", 1);
        assertTrue(!isFound, "without the member");
        (isFound,) = reader.modelHashAt(proof, type(uint256).max);
        assertTrue(!isFound, "far behind");
    }

    function testFuzz_modelHashAt_ReadsTheHashItWasGiven(bytes32 hash, uint8 members) public view {
        bytes memory start = "{";
        for (uint256 i = 0; i < members % 8; ++i) {
            start = bytes.concat(start, '"k":{"modelHash":"0x', bytes(hexOf(~hash)), '"},');
        }
        bytes memory proof = bytes.concat(start, '"modelHash":"0x', bytes(hexOf(hash)), '"}');
        (bool isFound, bytes32 found) = reader.modelHashAt(proof, start.length);
        assertTrue(isFound, "found");
        assertEq(found, hash, "hash");
    }

    function testFuzz_modelHashAt_NeverReverts(bytes calldata proof, uint256 offset) public view {
        (bool isFound,) = reader.modelHashAt(proof, offset);
        assertTrue(!isFound, "noise names no model");
    }

    /// By `shared.content.cid`.
    function test_ofRawBlock_MakesTheCidsThatPythonMakes() public pure {
        bytes memory all = new bytes(256);
        for (uint256 i = 0; i < 256; ++i) {
            all[i] = bytes1(uint8(i));
        }
        assertEq(Cids.ofRawBlock(sha256("")), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", "empty");
        assertEq(
            Cids.ofRawBlock(sha256("proof")), "bafkreigbzwrggyucrnusmzisauvzpszxfhr3auxevxshycq6gob557tty4", "proof"
        );
        assertEq(Cids.ofRawBlock(sha256(all)), "bafkreicav7zotuwysixepl6umshgsz2jofmhqx55dwuhbzyrajtl7fciqa", "all");
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function signedInfo(string memory cid)
        private
        view
        returns (IAttestationCenter.TaskInfo memory info, bytes memory signature)
    {
        info = makeInfo("task", PERFORMER_ID, tables.currentEpoch());
        info.proofOfTask = cid;
        signature = ecdsaSignature(PERFORMER_ID, center.taskInfoHash(info));
    }

    function expectNone(string memory cid) private {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = signedInfo(cid);
        vm.expectRevert(noTampering);
        court.reportTampering(info, signature, bytes(PROOF), OFFSET);
    }

    function assertFound(string memory before, string memory behind) private view {
        (bool isFound, bytes32 hash) = read(before, HEX, string.concat('"', behind));
        assertTrue(isFound, string.concat(before, " then the member"));
        assertEq(hash, MODEL, before);
    }

    function assertNone(string memory before, string memory behind) private view {
        (bool isFound, bytes32 hash) = read(before, HEX, string.concat('"', behind));
        assertTrue(!isFound && hash == 0, string.concat(before, " then no member"));
    }

    function read(string memory before, string memory digits, string memory behind)
        private
        view
        returns (bool, bytes32)
    {
        bytes memory proof = bytes(string.concat(before, '"modelHash":"0x', digits, behind));
        return reader.modelHashAt(proof, bytes(before).length);
    }

    function hexOf(bytes32 word) private pure returns (string memory) {
        bytes memory digits = new bytes(64);
        for (uint256 i = 0; i < 64; ++i) {
            digits[i] = bytes16("0123456789abcdef")[uint256(word) >> (252 - 4 * i) & 0xf];
        }
        return string(digits);
    }
}
