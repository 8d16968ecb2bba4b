// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Base} from "./Base.sol";

/// @notice The deployment of certificate.json, at the very addresses its signatures are bound to. What Python computed
/// without our code and what the contracts answer have to be the same.
contract VectorsTest is Base {
    string private constant FOLDER = "../tests/vectors/";

    IEpochTables private tables;
    IOperatorRegistry private registry;
    IAttestationCenter private center;
    ISlashingCourt private court;
    string private json;

    function setUp() public {
        json = vm.readFile(string.concat(FOLDER, "certificate.json"));
        assertEq(block.chainid, _uint(".chainId"), "chain id");
        vm.startPrank(_address(".deployer"));
        _deploy();
        vm.stopPrank();
        tables.createAttesterSet(_attesterSet());
        for (uint256 i = 0; _exists(".definitions", i); ++i) {
            _define(_at(".definitions", i));
        }
        for (uint256 i = 0; _exists(".operators", i); ++i) {
            _register(_at(".operators", i));
        }
        while (tables.rollEpoch() == 0) {}
        tables.rollSet(tables.currentEpoch(), 1);
    }

    /// @dev In the order that gives the addresses to which every signature is bound.
    function _deploy() private {
        (address owner, uint256 delay) = (_address(".settings.owner"), _uint(".settings.changeDelay"));
        tables = IEpochTables(deploy("EpochTables.sol:EpochTables", _tablesArguments()));
        bytes memory arguments = _registryArguments(owner, delay);
        registry = IOperatorRegistry(deploy("OperatorRegistry.sol:OperatorRegistry", arguments));
        arguments = abi.encode(tables, registry, owner, delay);
        center = IAttestationCenter(deploy("AttestationCenter.sol:AttestationCenter", arguments));
        arguments = abi.encode(center, address(0), _uint(".settings.refundDelay"), owner, delay);
        address escrow = deploy("TaskEscrow.sol:TaskEscrow", arguments);
        court = ISlashingCourt(deploy("SlashingCourt.sol:SlashingCourt", _courtArguments(owner, delay)));
        tables.setSource(address(registry));
        registry.setCourt(address(court));
        center.setCourt(address(court));
        assertEq(address(tables), _address(".tables"), "tables");
        assertEq(address(registry), _address(".registry"), "registry");
        assertEq(address(center), _address(".center"), "center");
        assertEq(escrow, _address(".escrow"), "escrow");
        assertEq(address(court), _address(".court"), "court");
    }

    // --- certificate.json --------------------------------------------------------------------------------------------

    function test_TheTablesAreThoseThatPythonExpects() public view {
        assertEq(tables.currentEpoch(), _uint(".epoch"), "epoch");
        _checkTable(0, ".table");
        _checkTable(1, ".setTable");
    }

    function _checkTable(uint32 set, string memory expected) private view {
        (address[] memory members, bytes[] memory keys, uint64[] memory powers) =
            tables.tableOf(tables.currentEpoch(), set);
        for (uint256 i = 0; i < members.length; ++i) {
            string memory entry = _at(expected, i);
            assertEq(members[i], _address(string.concat(entry, ".operator")), "operator");
            assertEq(keys[i], _bytes(entry, ".voteKey"), "vote key");
            assertEq(powers[i], _uint(string.concat(entry, ".power")), "power");
        }
        assertTrue(members.length != 0 && !_exists(expected, members.length), "the table has every entry");
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
        bytes32 voters = vm.parseJsonBytes32(json, string.concat(entry, ".votersHash"));
        IAttestationCenter.SettlementProof memory proof;
        proof.aggregator = address(this);
        address aggregator = center.requireSettled(info.taskId, infoHash, details.isApproved, voters, proof);
        assertEq(aggregator, address(this), "settled by these voters");
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
        assertEq(tables.domainSeparator(), vm.parseJsonBytes32(json, ".tablesDomainSeparator"), "tables' domain");
        assertEq(registry.domainSeparator(), vm.parseJsonBytes32(json, ".registryDomainSeparator"), "registry's domain");
        assertEq(center.domainSeparator(), vm.parseJsonBytes32(json, ".centerDomainSeparator"), "center's domain");
        assertEq(court.domainSeparator(), vm.parseJsonBytes32(json, ".courtDomainSeparator"), "court's domain");
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
            assertEq(tables.possessionDigest(operator, keyHash), _digest(entry), "possession");
        }
    }

    function test_DigestsOfRegistrationsAndSlashesAreThoseOfEip712() public {
        json = vm.readFile(string.concat(FOLDER, "digests.json"));
        uint256 count = 0;
        for (uint256 i = 0; _exists(".promises", i); ++i) {
            string memory entry = _at(".promises", i);
            bytes32 taskId = vm.parseJsonBytes32(json, string.concat(entry, ".taskId"));
            assertEq(center.promiseDigest(taskId), _digest(entry), "promise");
            ++count;
        }
        for (uint256 i = 0; _exists(".consents", i); ++i) {
            string memory entry = _at(".consents", i);
            address owner = _address(string.concat(entry, ".owner"));
            bytes32 digest = registry.consentDigest(_address(string.concat(entry, ".operator")), owner);
            assertEq(digest, _digest(entry), "consent");
            ++count;
        }
        for (uint256 i = 0; _exists(".allowances", i); ++i) {
            string memory entry = _at(".allowances", i);
            uint64 expiry = uint64(_uint(string.concat(entry, ".expiry")));
            address operator = _address(string.concat(entry, ".operator"));
            bytes32 digest = registry.allowanceDigest(operator, _uint(string.concat(entry, ".nonce")), expiry);
            assertEq(digest, _digest(entry), "allowance");
            ++count;
        }
        for (uint256 i = 0; _exists(".cancelSlashes", i); ++i) {
            string memory entry = _at(".cancelSlashes", i);
            bytes32 slashId = vm.parseJsonBytes32(json, string.concat(entry, ".slashId"));
            assertEq(court.cancelDigest(slashId), _digest(entry), "cancel slash");
            ++count;
        }
        for (uint256 i = 0; _exists(".overruleVetoes", i); ++i) {
            string memory entry = _at(".overruleVetoes", i);
            bytes32 slashId = vm.parseJsonBytes32(json, string.concat(entry, ".slashId"));
            assertEq(court.overruleDigest(slashId), _digest(entry), "overrule veto");
            ++count;
        }
        assertEq(count, 9, "digests of every kind");
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
                ? abi.encodeWithSelector(IEpochTables.InfinityVoteKey.selector)
                : abi.encodeWithSelector(IEpochTables.MalformedVoteKey.selector, key, possession);
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
                ? abi.encodeWithSelector(IEpochTables.PossessionMismatch.selector, address(this), keccak256(key))
                : abi.encodeWithSelector(IEpochTables.MalformedVoteKey.selector, key, possession);
            _expectRefused(key, possession, revertData);
        }
        assertTrue(i > 5, "there are proofs to check");
    }

    function _expectRefused(bytes memory key, bytes memory possession, bytes memory revertData) private {
        IOperatorRegistry.Registration memory registration;
        registration.roles = 2;
        registration.stake = 1 ether;
        registration.voteKey = key;
        registration.possession = possession;
        registration.peerKey = bytes32(uint256(1));
        vm.deal(address(this), 1 ether);
        vm.expectRevert(revertData);
        registry.register{value: 1 ether}(registration);
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
            vm.parseJsonBool(json, string.concat(entry, ".isApproved")),
            _checkVoters(entry)
        );
        assertEq(node, vm.parseJsonBytes32(json, string.concat(entry, ".leaf")), "leaf");
        bytes32[] memory proof = vm.parseJsonBytes32Array(json, string.concat(entry, ".proof"));
        for (uint256 k = 0; k < proof.length; ++k) {
            node = node < proof[k] ? keccak256(abi.encode(node, proof[k])) : keccak256(abi.encode(proof[k], node));
        }
        assertEq(node, vm.parseJsonBytes32(json, string.concat(tree, ".root")), "root");
    }

    function _checkVoters(string memory entry) private view returns (bytes32 voters) {
        voters = center.votersHashOf(
            uint32(_uint(string.concat(entry, ".epoch"))),
            uint32(_uint(string.concat(entry, ".attesterSet"))),
            _bytes(entry, ".indices")
        );
        assertEq(voters, vm.parseJsonBytes32(json, string.concat(entry, ".votersHash")), "voters");
    }

    // --- reading JSON ------------------------------------------------------------------------------------------------

    function _tablesArguments() private view returns (bytes memory) {
        return abi.encode(_uint(".settings.epochSeconds"), _uint(".settings.graceSeconds"));
    }

    function _registryArguments(address owner, uint256 delay) private view returns (bytes memory) {
        return abi.encode(
            tables,
            address(0),
            _uint(".settings.minimumStake"),
            _uint(".settings.powerUnit"),
            _uint(".settings.unbondingSeconds"),
            owner,
            delay
        );
    }

    function _courtArguments(address owner, uint256 delay) private view returns (bytes memory) {
        return abi.encode(
            center,
            _address(".settings.vault"),
            _uint(".settings.vetoDelay"),
            _uint(".settings.longestDispute"),
            owner,
            delay
        );
    }

    function _attesterSet() private view returns (IEpochTables.AttesterSet memory rules) {
        rules.minimumPower = uint32(_uint(".attesterSet.minimumPower"));
        rules.maximumPower = uint32(_uint(".attesterSet.maximumPower"));
        rules.minimumOwners = uint16(_uint(".attesterSet.minimumOwners"));
        assertTrue(!_exists(".attesterSet.members", 0), "a set of everybody");
    }

    function _define(string memory entry) private {
        IAttestationCenter.TaskTerms memory terms;
        terms.attesterSet = uint32(_uint(string.concat(entry, ".attesterSet")));
        terms.maximumDeadline = uint32(_uint(string.concat(entry, ".maximumDeadline")));
        terms.disputeWindow = uint32(_uint(string.concat(entry, ".disputeWindow")));
        terms.slashesRejected = true;
        address owner = _address(".settings.owner");
        vm.prank(owner);
        center.createTaskDefinition(
            vm.parseJsonString(json, string.concat(entry, ".name")),
            vm.parseJsonString(json, string.concat(entry, ".method")),
            vm.parseJsonBytes32(json, string.concat(entry, ".modelHash")),
            vm.parseJsonString(json, string.concat(entry, ".cardCid")),
            terms
        );
    }

    function _register(string memory entry) private {
        address operator = _address(string.concat(entry, ".operator"));
        IOperatorRegistry.Registration memory registration;
        registration.roles = uint8(_uint(string.concat(entry, ".roles")));
        registration.stake = _uint(string.concat(entry, ".stake"));
        registration.voteKey = _bytes(entry, ".voteKey");
        registration.possession = _bytes(entry, ".possession");
        registration.peerKey = vm.parseJsonBytes32(json, string.concat(entry, ".peerKey"));
        registration.p2pAddress = vm.parseJsonString(json, string.concat(entry, ".p2pAddress"));
        registration.gatewayUrl = vm.parseJsonString(json, string.concat(entry, ".gatewayUrl"));
        vm.deal(operator, registration.stake);
        vm.prank(operator);
        registry.register{value: registration.stake}(registration);
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

    function _address(string memory key) private view returns (address) {
        return vm.parseJsonAddress(json, key);
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
