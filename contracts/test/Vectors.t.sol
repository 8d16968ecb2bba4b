// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Base} from "./Base.sol";

/// @notice The deployment of certificate.json, at the very addresses its signatures are bound to. What Python computed
/// without our code and what the contracts answer have to be the same.
contract VectorsTest is Base {
    string private constant FOLDER = "../tests/vectors/";

    IOperatorRegistry private registry;
    IAttestationCenter private center;
    string private json;

    function setUp() public {
        json = vm.readFile(string.concat(FOLDER, "certificate.json"));
        vm.startPrank(vm.parseJsonAddress(json, ".deployer"));
        registry = IOperatorRegistry(deploy("OperatorRegistry.sol:OperatorRegistry", _registryArguments()));
        center = IAttestationCenter(deploy("AttestationCenter.sol:AttestationCenter", _centerArguments()));
        registry.setCenter(address(center));
        vm.stopPrank();
        assertEq(address(registry), vm.parseJsonAddress(json, ".registry"), "registry");
        assertEq(address(center), vm.parseJsonAddress(json, ".center"), "center");
        assertEq(block.chainid, _uint(".chainId"), "chain id");
        _define();
        for (uint256 i = 0; _exists(".operators", i); ++i) {
            _register(_at(".operators", i));
        }
        registry.rollEpoch();
    }

    // --- certificate.json --------------------------------------------------------------------------------------------

    function test_TheTableIsTheOneThatPythonExpects() public view {
        uint32 epoch = registry.currentEpoch();
        assertEq(epoch, _uint(".epoch"), "epoch");
        (address[] memory members, bytes[] memory keys, uint64[] memory powers) = registry.tableOf(epoch);
        for (uint256 i = 0; i < members.length; ++i) {
            string memory entry = _at(".table", i);
            assertEq(members[i], vm.parseJsonAddress(json, string.concat(entry, ".operator")), "operator");
            assertEq(keys[i], _bytes(entry, ".voteKey"), "vote key");
            assertEq(powers[i], _uint(string.concat(entry, ".power")), "power");
        }
        assertTrue(!_exists(".table", members.length), "the table has every entry");
    }

    function test_EveryCertificateSettlesOrRevertsAsExpected() public {
        uint256 i = 0;
        for (; _exists(".certificates", i); ++i) {
            this.checkCertificate(_at(".certificates", i));
        }
        assertTrue(i > 40, "there are certificates to check");
    }

    function test_EveryBatchSettlesOrRevertsAsExpected() public {
        uint256 i = 0;
        for (; _exists(".batches", i); ++i) {
            this.checkBatch(_at(".batches", i));
        }
        assertTrue(i > 10, "there are batches to check");
    }

    /// @dev A call of its own for each entry, so that its copies of the JSON are given back.
    function checkCertificate(string memory entry) external {
        IAttestationCenter.TaskInfo memory info = _info(string.concat(entry, ".info"));
        IAttestationCenter.TaskSubmissionDetails memory details = _details(string.concat(entry, ".details"));
        bytes32 infoHash = vm.parseJsonBytes32(json, string.concat(entry, ".infoHash"));
        bytes memory revertData = _bytes(entry, ".error");
        assertEq(center.taskInfoHash(info), infoHash, "task info hash");

        if (revertData.length != 0) {
            _expectRevert(entry, abi.encodeCall(center.checkCertificate, (info, details)), revertData);
            _expectRevert(entry, abi.encodeCall(center.submitTask, (info, details)), revertData);
            assertEq(center.verdictOf(info.taskId), 0, "no verdict");
            return;
        }
        assertEq(center.checkCertificate(info, details), infoHash, "checked");
        center.submitTask(info, details);
        assertEq(center.verdictOf(info.taskId), details.isApproved ? 1 : 2, "verdict");
    }

    function checkBatch(string memory entry) external {
        bytes32 root = vm.parseJsonBytes32(json, string.concat(entry, ".root"));
        bytes32 contentHash = vm.parseJsonBytes32(json, string.concat(entry, ".contentHash"));
        uint32 size = uint32(_uint(string.concat(entry, ".size")));
        uint32 epoch = uint32(_uint(string.concat(entry, ".epoch")));
        address aggregator = vm.parseJsonAddress(json, string.concat(entry, ".aggregator"));
        bytes32 digest = vm.parseJsonBytes32(json, string.concat(entry, ".digest"));
        assertEq(center.batchDigest(root, contentHash, size, epoch, aggregator), digest, "batch digest");

        bytes memory call = _batchCall(entry);
        bytes memory revertData = _bytes(entry, ".error");
        if (revertData.length != 0) {
            _expectRevert(entry, call, revertData);
            assertEq(center.batchOf(root).size, 0, "no batch");
            return;
        }
        (bool done,) = address(center).call(call);
        assertTrue(done, entry);
        assertEq(center.batchOf(root).size, size, "size");
        assertEq(center.batchOf(root).aggregator, aggregator, "aggregator");
    }

    function _batchCall(string memory entry) private view returns (bytes memory) {
        return abi.encodeCall(
            center.submitBatch,
            (
                vm.parseJsonBytes32(json, string.concat(entry, ".root")),
                vm.parseJsonBytes32(json, string.concat(entry, ".contentHash")),
                uint32(_uint(string.concat(entry, ".size"))),
                uint32(_uint(string.concat(entry, ".epoch"))),
                vm.parseJsonAddress(json, string.concat(entry, ".aggregator")),
                _bytes(entry, ".signature"),
                _bytes(entry, ".missing")
            )
        );
    }

    /// @dev By a call of its own, so that a failure names the vector.
    function _expectRevert(string memory entry, bytes memory call, bytes memory revertData) private {
        (bool done, bytes memory answer) = address(center).call(call);
        string memory name = vm.parseJsonString(json, string.concat(entry, ".name"));
        assertTrue(!done, string.concat("has to revert: ", name));
        assertEq(answer, revertData, name);
    }

    // --- digests.json ------------------------------------------------------------------------------------------------

    function test_DigestsAreThoseOfEip712() public {
        json = vm.readFile(string.concat(FOLDER, "digests.json"));
        assertEq(center.domainSeparator(), vm.parseJsonBytes32(json, ".centerDomainSeparator"), "center's domain");
        assertEq(registry.domainSeparator(), vm.parseJsonBytes32(json, ".registryDomainSeparator"), "registry's domain");
        for (uint256 i = 0; _exists(".taskRequests", i); ++i) {
            string memory entry = _at(".taskRequests", i);
            assertEq(center.taskRequestHash(_request(entry)), _digest(entry), "task request");
        }
        for (uint256 i = 0; _exists(".taskInfos", i); ++i) {
            string memory entry = _at(".taskInfos", i);
            assertEq(center.taskInfoHash(_info(entry)), _digest(entry), "task info");
        }
        for (uint256 i = 0; _exists(".votes", i); ++i) {
            string memory entry = _at(".votes", i);
            bytes32 infoHash = vm.parseJsonBytes32(json, string.concat(entry, ".taskInfoHash"));
            uint8 verdict = uint8(_uint(string.concat(entry, ".verdict")));
            assertEq(center.voteDigest(infoHash, verdict), _digest(entry), "vote");
        }
        for (uint256 i = 0; _exists(".batches", i); ++i) {
            _checkBatchDigest(_at(".batches", i));
        }
        for (uint256 i = 0; _exists(".possessions", i); ++i) {
            string memory entry = _at(".possessions", i);
            address operator = vm.parseJsonAddress(json, string.concat(entry, ".operator"));
            bytes32 keyHash = vm.parseJsonBytes32(json, string.concat(entry, ".keyHash"));
            assertEq(registry.possessionDigest(operator, keyHash), _digest(entry), "possession");
        }
    }

    function _checkBatchDigest(string memory entry) private view {
        bytes32 digest = center.batchDigest(
            vm.parseJsonBytes32(json, string.concat(entry, ".root")),
            vm.parseJsonBytes32(json, string.concat(entry, ".contentHash")),
            uint32(_uint(string.concat(entry, ".size"))),
            uint32(_uint(string.concat(entry, ".epoch"))),
            vm.parseJsonAddress(json, string.concat(entry, ".aggregator"))
        );
        assertEq(digest, _digest(entry), "batch");
    }

    // --- bls.json ----------------------------------------------------------------------------------------------------

    function test_HashToCurveIsThatOfRfc9380() public {
        json = vm.readFile(string.concat(FOLDER, "bls.json"));
        uint256 i = 0;
        for (; _exists(".hashToCurve", i); ++i) {
            string memory entry = _at(".hashToCurve", i);
            bytes32 message = vm.parseJsonBytes32(json, string.concat(entry, ".message"));
            bytes32 tag = bytes32(bytes(vm.parseJsonString(json, string.concat(entry, ".tag"))));
            bytes memory padded = new bytes(128);
            bytes memory scratch = new bytes(512);
            (uint256 target, uint256 space) = (_position(padded), _position(scratch));
            BLS12381.hashToG1(message, tag, target, space);
            assertEq(padded, _padG1(_bytes(entry, ".point")), "hash to curve");
        }
        assertTrue(i >= 6, "there are hashes to check");
    }

    function test_MalformedKeysAreRefused() public {
        string memory bls = vm.readFile(string.concat(FOLDER, "bls.json"));
        bytes memory possession = vm.parseJsonBytes(bls, ".possessions[0].possession");
        uint256 i = 0;
        for (; vm.keyExistsJson(bls, string.concat(_at(".malformedG2", i), ".point")); ++i) {
            bytes memory key = vm.parseJsonBytes(bls, string.concat(_at(".malformedG2", i), ".point"));
            bytes memory revertData = i == 0
                ? abi.encodeWithSelector(IOperatorRegistry.InfinityVoteKey.selector)
                : abi.encodeWithSelector(IOperatorRegistry.MalformedVoteKey.selector, key, possession);
            _expectRefused(key, possession, revertData);
        }
        assertTrue(i > 5, "there are keys to check");
    }

    function test_MalformedPossessionsAreRefused() public {
        string memory bls = vm.readFile(string.concat(FOLDER, "bls.json"));
        // A key that nobody registered in setUp: the third of bls.json is registered, an aggregate is not.
        bytes memory key = vm.parseJsonBytes(bls, ".aggregates[2].aggregateKey");
        uint256 i = 0;
        for (; vm.keyExistsJson(bls, string.concat(_at(".malformedG1", i), ".point")); ++i) {
            bytes memory possession = vm.parseJsonBytes(bls, string.concat(_at(".malformedG1", i), ".point"));
            bytes memory revertData = i == 0
                ? abi.encodeWithSelector(IOperatorRegistry.PossessionMismatch.selector, address(this), keccak256(key))
                : abi.encodeWithSelector(IOperatorRegistry.MalformedVoteKey.selector, key, possession);
            _expectRefused(key, possession, revertData);
        }
        assertTrue(i > 5, "there are proofs to check");
    }

    function _expectRefused(bytes memory key, bytes memory possession, bytes memory revertData) private {
        vm.deal(address(this), 1 ether);
        vm.expectRevert(revertData);
        registry.register{value: 1 ether}(2, key, possession, bytes32(uint256(1)), "", "");
    }

    // --- merkle.json -------------------------------------------------------------------------------------------------

    function test_LeavesAndRootsAreThoseOfTheStandardTree() public {
        json = vm.readFile(string.concat(FOLDER, "merkle.json"));
        for (uint256 i = 0; vm.keyExistsJson(json, string.concat(_at("", i), ".root")); ++i) {
            string memory tree = _at("", i);
            for (uint256 j = 0; _exists(string.concat(tree, ".leaves"), j); ++j) {
                _checkLeaf(tree, _at(string.concat(tree, ".leaves"), j));
            }
        }
    }

    function _checkLeaf(string memory tree, string memory entry) private view {
        bytes32 node = Digests.hashLeaf(
            vm.parseJsonBytes32(json, string.concat(entry, ".taskId")),
            vm.parseJsonBytes32(json, string.concat(entry, ".taskInfoHash")),
            vm.parseJsonBool(json, string.concat(entry, ".isApproved"))
        );
        assertEq(node, vm.parseJsonBytes32(json, string.concat(entry, ".leaf")), "leaf");
        bytes32[] memory proof = vm.parseJsonBytes32Array(json, string.concat(entry, ".proof"));
        for (uint256 k = 0; k < proof.length; ++k) {
            node = node < proof[k] ? keccak256(abi.encode(node, proof[k])) : keccak256(abi.encode(proof[k], node));
        }
        assertEq(node, vm.parseJsonBytes32(json, string.concat(tree, ".root")), "root");
    }

    // --- reading JSON ------------------------------------------------------------------------------------------------

    function _registryArguments() private view returns (bytes memory) {
        return abi.encode(
            _uint(".settings.minimumStake"),
            _uint(".settings.unbondingSeconds"),
            _uint(".settings.epochSeconds"),
            vm.parseJsonAddress(json, ".settings.vault")
        );
    }

    function _centerArguments() private view returns (bytes memory) {
        return abi.encode(
            registry,
            vm.parseJsonAddress(json, ".settings.owner"),
            _uint(".settings.slashWad"),
            _uint(".settings.disputeWindow")
        );
    }

    function _define() private {
        vm.prank(vm.parseJsonAddress(json, ".settings.owner"));
        center.createTaskDefinition(
            vm.parseJsonString(json, ".definition.name"),
            vm.parseJsonString(json, ".definition.method"),
            vm.parseJsonBytes32(json, ".definition.modelHash"),
            vm.parseJsonString(json, ".definition.cardCid")
        );
    }

    function _register(string memory entry) private {
        address operator = vm.parseJsonAddress(json, string.concat(entry, ".operator"));
        uint256 stake = _uint(string.concat(entry, ".stake"));
        vm.deal(operator, stake);
        vm.prank(operator);
        registry.register{value: stake}(
            uint8(_uint(string.concat(entry, ".roles"))),
            _bytes(entry, ".voteKey"),
            _bytes(entry, ".possession"),
            vm.parseJsonBytes32(json, string.concat(entry, ".peerKey")),
            vm.parseJsonString(json, string.concat(entry, ".p2pAddress")),
            vm.parseJsonString(json, string.concat(entry, ".gatewayUrl"))
        );
    }

    function _request(string memory entry) private view returns (IAttestationCenter.TaskRequest memory request) {
        request.requester = vm.parseJsonAddress(json, string.concat(entry, ".requester"));
        request.nonce = _uint(string.concat(entry, ".nonce"));
        request.performer = vm.parseJsonAddress(json, string.concat(entry, ".performer"));
        request.taskDefinitionId = uint16(_uint(string.concat(entry, ".taskDefinitionId")));
        request.modelHash = vm.parseJsonBytes32(json, string.concat(entry, ".modelHash"));
        request.inputCid = vm.parseJsonString(json, string.concat(entry, ".inputCid"));
        request.parameters = vm.parseJsonString(json, string.concat(entry, ".parameters"));
        request.seed = vm.parseJsonBytes32(json, string.concat(entry, ".seed"));
        request.fee = _uint(string.concat(entry, ".fee"));
        request.deadline = uint64(_uint(string.concat(entry, ".deadline")));
    }

    function _info(string memory entry) private view returns (IAttestationCenter.TaskInfo memory info) {
        info.taskId = vm.parseJsonBytes32(json, string.concat(entry, ".taskId"));
        info.proofOfTask = vm.parseJsonString(json, string.concat(entry, ".proofOfTask"));
        info.data = _bytes(entry, ".data");
        info.taskPerformer = vm.parseJsonAddress(json, string.concat(entry, ".taskPerformer"));
        info.taskDefinitionId = uint16(_uint(string.concat(entry, ".taskDefinitionId")));
        info.epoch = uint32(_uint(string.concat(entry, ".epoch")));
    }

    function _details(string memory entry)
        private
        view
        returns (IAttestationCenter.TaskSubmissionDetails memory details)
    {
        details.isApproved = vm.parseJsonBool(json, string.concat(entry, ".isApproved"));
        details.tpSignature = _bytes(entry, ".tpSignature");
        details.taSignature = _bytes(entry, ".taSignature");
        details.indices = _bytes(entry, ".indices");
    }

    function _uint(string memory key) private view returns (uint256) {
        return vm.parseJsonUint(json, key);
    }

    function _bytes(string memory entry, string memory key) private view returns (bytes memory) {
        return vm.parseJsonBytes(json, string.concat(entry, key));
    }

    function _digest(string memory entry) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, string.concat(entry, ".digest"));
    }

    function _at(string memory list, uint256 position) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(position), "]");
    }

    function _exists(string memory list, uint256 position) private view returns (bool) {
        return vm.keyExistsJson(json, _at(list, position));
    }

    function _position(bytes memory data) private pure returns (uint256 position) {
        assembly ("memory-safe") {
            position := add(data, 32)
        }
    }

    function _padG1(bytes memory packed) private pure returns (bytes memory) {
        bytes memory x = new bytes(48);
        bytes memory y = new bytes(48);
        for (uint256 i = 0; i < 48; ++i) {
            (x[i], y[i]) = (packed[i], packed[48 + i]);
        }
        return abi.encodePacked(bytes16(0), x, bytes16(0), y);
    }
}
