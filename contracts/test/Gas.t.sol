// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";
import {Keys} from "./Keys.sol";

/// @notice Ceilings a few per cent above what the hot functions cost now, so that nobody makes them dearer unawares;
/// goals are elsewhere (bench/gas.py). Each call finds every account and slot cold, as in a transaction of its own.
/// Execution alone: a transaction adds 21,000 and its calldata.
contract GasTest is EscrowNetwork {
    uint256 private constant MORE = 6;
    uint256 private constant ALL = (1 << (ATTESTERS + MORE)) - 1;
    uint256 private constant NEWCOMER_ID = 50;

    /// The pages that a contract wrote have the addresses of its nonces; those below 128 are one byte of RLP.
    uint64 private constant MAX_PAGES = 127;

    error TooDear(string what, uint256 gas, uint256 ceiling);
    error TooCheap(string what, uint256 gas, uint256 floor);

    /// @dev Ten attesters of about equal power.
    function setUp() public override {
        super.setUp();
        for (uint256 id = 40; id < 40 + MORE; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        epoch = roll();
    }

    // --- measuring ---------------------------------------------------------------------------------------------------

    function _cool() private {
        address[5] memory all = [address(tables), address(registry), address(center), address(escrow), address(court)];
        for (uint256 i = 0; i < all.length; ++i) {
            vm.cool(all[i]);
            assertTrue(vm.getNonce(all[i]) <= MAX_PAGES, "a page that stays warm");
            for (uint256 nonce = 1; nonce < vm.getNonce(all[i]); ++nonce) {
                vm.cool(address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", all[i], uint8(nonce)))))));
            }
        }
    }

    /// @dev The call succeeds, for at most `ceiling`, and for no less than 90 % of it: else the ceiling guards nothing.
    function _costs(string memory what, address from, address to, uint256 value, bytes memory message, uint256 ceiling)
        private
    {
        if (value != 0) vm.deal(from, from.balance + value);
        _cool();
        vm.prank(from);
        uint256 before = gasleft();
        (bool done,) = to.call{value: value}(message);
        uint256 gas = before - gasleft();
        assertTrue(done, what);
        if (gas > ceiling) revert TooDear(what, gas, ceiling);
        if (gas < ceiling * 9 / 10) revert TooCheap(what, gas, ceiling * 9 / 10);
    }

    function _costs(string memory what, address to, bytes memory message, uint256 ceiling) private {
        _costs(what, aggregator, to, 0, message, ceiling);
    }

    // --- verdicts ----------------------------------------------------------------------------------------------------

    function _verify(uint256 signers) private view returns (bytes memory) {
        (bytes memory signature, bytes memory missing) = vote("digest", epoch, 0, true, signers);
        return abi.encodeCall(tables.verifyQuorum, ("digest", epoch, 0, true, signature, missing));
    }

    function test_gas_VerifyQuorum() public {
        _costs("nobody missing", address(tables), _verify(ALL), 128_000);
        _costs("one missing", address(tables), _verify(ALL >> 1), 130_500);
        _costs("three missing", address(tables), _verify(ALL >> 3), 133_000);
    }

    function _submission(uint256 nonce, bool isApproved) private view returns (bytes memory) {
        IAttestationCenter.TaskInfo memory info = infoOf(makeRequest(nonce));
        return abi.encodeCall(IAttestationCenter.submitTask, (info, certify(info, isApproved, ALL)));
    }

    function test_gas_SubmitTask() public {
        _costs("an approval", address(center), _submission(1, true), 173_000);
    }

    /// With the slash that it queues.
    function test_gas_SubmitRejectedTask() public {
        _costs("a rejection by all", address(center), _submission(1, false), 247_000);
    }

    function _batch(bytes32 root, uint32 size) private view returns (bytes memory) {
        bytes32 digest = center.batchDigest(root, "content", size, epoch, aggregator);
        (bytes memory signature, bytes memory missing) = vote(digest, epoch, 0, true, ALL);
        return
            abi.encodeCall(
                IAttestationCenter.submitBatch, (root, "content", size, epoch, aggregator, signature, missing)
            );
    }

    function test_gas_SubmitBatch() public {
        _costs("of one", address(center), _batch("one", 1), 156_500);
        _costs("of many", address(center), _batch("many", 256), 156_500);
    }

    // --- fees --------------------------------------------------------------------------------------------------------

    function test_gas_Collect() public {
        ITaskEscrow.Collection memory first = settleSingly(makeRequest(1), true, ALL);
        ITaskEscrow.Collection memory second = settleSingly(makeRequest(2), true, ALL);
        _costs("the first of a pool", address(escrow), abi.encodeCall(ITaskEscrow.collect, (list(first))), 145_000);
        _costs("the next", address(escrow), abi.encodeCall(ITaskEscrow.collect, (list(second))), 74_500);
    }

    function test_gas_CollectABatch() public {
        IAttestationCenter.TaskRequest[] memory requests = new IAttestationCenter.TaskRequest[](16);
        for (uint256 i = 0; i < requests.length; ++i) {
            requests[i] = makeRequest(i);
        }
        ITaskEscrow.Collection[] memory tasks = settleBatch(requests, ALL, ALL);
        _costs("sixteen of one pool", address(escrow), abi.encodeCall(ITaskEscrow.collect, (tasks)), 499_000);
    }

    function test_gas_Claim() public {
        ITaskEscrow.Voters memory voters = pay(1, true, ALL);
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, 0);
        bytes memory message = abi.encodeCall(ITaskEscrow.claim, (attesterIn(0), pools, seats));
        _costs("a share, for the first time", address(escrow), message, 89_000);
    }

    function test_gas_Deposit() public {
        bytes memory message = abi.encodeCall(ITaskEscrow.deposit, (requester, accountOf(7), 1 gwei));
        _costs("for a new performer", requester, address(escrow), 1 gwei, message, 41_000);
    }

    // --- operators ---------------------------------------------------------------------------------------------------

    function test_gas_Register() public {
        address account = accountOf(NEWCOMER_ID);
        IOperatorRegistry.Registration memory made =
            registration(NEWCOMER_ID, PERFORMER | ATTESTER | AGGREGATOR, MINIMUM_STAKE);
        bytes memory message = abi.encodeCall(IOperatorRegistry.register, (made));
        _costs("an attester", account, address(registry), MINIMUM_STAKE, message, 430_000);
    }

    function test_gas_LeaveAndWithdraw() public {
        address account = attesterIn(0);
        _costs("leaving", account, address(registry), 0, abi.encodeCall(IOperatorRegistry.leave, (account)), 61_000);
        roll();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        bytes memory message = abi.encodeCall(IOperatorRegistry.withdraw, (account));
        _costs("withdrawing", account, address(registry), 0, message, 75_500);
    }

    function test_gas_RollEpoch() public {
        bytes memory message = abi.encodeCall(IEpochTables.rollEpoch, ());
        vm.warp(tables.rollableAt());
        _costs("the same voters", address(tables), message, 151_000);
        vm.prank(attesterIn(0));
        registry.leave(attesterIn(0));
        _costs("one less", address(tables), message, 167_000);
        join(NEWCOMER_ID, ATTESTER, MINIMUM_STAKE);
        vm.warp(tables.rollableAt());
        _costs("one more", address(tables), message, 729_000);
    }

    // --- offences ----------------------------------------------------------------------------------------------------

    function test_gas_ExecuteSlash() public {
        settle(center.taskRequestHash(makeRequest(1)), PERFORMER_ID, false);
        bytes32 taskId = center.taskRequestHash(makeRequest(1));
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, taskId, performer);
        bytes memory message = abi.encodeCall(ISlashingCourt.nameHarmed, (slashId, makeRequest(1)));
        _costs("naming who was harmed", address(court), message, 84_000);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        message = abi.encodeCall(ISlashingCourt.executeSlash, (slashId));
        _costs("with a compensation", address(court), message, 133_500);
        _costs("paying it", address(court), abi.encodeCall(ISlashingCourt.pay, (requester)), 48_500);
    }

    function test_gas_CancelSlash() public {
        settle("task", PERFORMER_ID, false);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "task", performer);
        (bytes memory signature, bytes memory missing) = vote(court.cancelDigest(slashId), epoch, 0, true, ALL);
        bytes memory message = abi.encodeCall(ISlashingCourt.cancelSlash, (slashId, epoch, signature, missing));
        _costs("by all", address(court), message, 145_500);
    }

    function test_gas_ReportEquivocation() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, epoch);
        bytes32 infoHash = center.taskInfoHash(info);
        bytes memory sum = Keys.add(voteOf(1, infoHash, VALID), voteOf(1, infoHash, INVALID));
        bytes memory message = abi.encodeCall(
            ISlashingCourt.reportEquivocation,
            (ISlashingCourt.SignedVote(info, VALID, 0), ISlashingCourt.SignedVote(info, INVALID, 0), sum)
        );
        _costs("two verdicts", address(court), message, 246_000);
    }

    function test_gas_ReportMissedDeadline() public {
        IAttestationCenter.TaskRequest memory made = makeRequest(1);
        bytes memory promise_ = ecdsaSignature(PERFORMER_ID, center.promiseDigest(center.taskRequestHash(made)));
        vm.warp(uint256(made.deadline) + 1 hours + 1);
        _costs(
            "a promise", address(court), abi.encodeCall(ISlashingCourt.reportMissedDeadline, (made, promise_)), 158_000
        );
    }
}
