// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {Burner, Reentrant, Refuser, Wallet} from "./EscrowActors.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";

/// @notice Requesters with code: they are asked in the middle of collecting. Branches: tree/collect.tree.
contract ContractRequestersTest is EscrowNetwork {
    function _settleFor(address contractRequester) private returns (ITaskEscrow.Collection memory) {
        vm.deal(address(this), FEE);
        escrow.deposit{value: FEE}(contractRequester, performer, FEE);
        IAttestationCenter.TaskRequest memory request = makeRequest(0);
        request.requester = contractRequester;
        return settleSingly(request, true, EVERYBODY);
    }

    function test_collect_TakesAContractsSignature() public {
        Wallet wallet = new Wallet(requester);
        collect(_settleFor(address(wallet)));
        assertTrue(escrow.isPaid(address(wallet), performer, 0), "paid");
        assertEq(balanceOf(address(wallet), performer), 0, "by the wallet's deposit");
        assertEq(balanceOf(requester, performer), DEPOSIT, "not by its owner's");
    }

    function test_collect_RevertsForWhatAContractDidNotSign() public {
        Wallet wallet = new Wallet(accountOf(PERFORMER_ID));
        ITaskEscrow.Collection memory task = _settleFor(address(wallet));
        bytes4 selector = ITaskEscrow.RequesterSignatureMismatch.selector;
        expectRefusal(task, abi.encodeWithSelector(selector, address(wallet), center.taskRequestHash(task.request)));
    }

    function test_collect_AContractCanDisownWhatItSigned() public {
        // Nothing else is possible with ERC-1271: a performer has to know whom it works for.
        Wallet wallet = new Wallet(requester);
        ITaskEscrow.Collection memory task = _settleFor(address(wallet));
        wallet.disown();
        bytes4 selector = ITaskEscrow.RequesterSignatureMismatch.selector;
        expectRefusal(task, abi.encodeWithSelector(selector, address(wallet), center.taskRequestHash(task.request)));
    }

    function test_collect_AKeysSignatureCannotBeDisownedByTakingOnCode() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        // EIP-7702: the account delegates to code that signs nothing.
        vm.etch(requester, type(Refuser).runtimeCode);
        collect(task);
        assertTrue(escrow.isPaid(requester, performer, 0), "paid");
    }

    function test_collect_RevertsForARequesterThatBurnsItsGas() public {
        Burner burner = new Burner();
        ITaskEscrow.Collection memory task = _settleFor(address(burner));
        bytes4 selector = ITaskEscrow.RequesterSignatureMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, address(burner), center.taskRequestHash(task.request)));
        escrow.collect{gas: 5_000_000}(list(task));
    }

    function test_collect_PaysOnceWhateverARequesterCallsWhenItIsAsked() public {
        // It is asked by a static call: whatever it calls cannot change anything.
        Reentrant thief = new Reentrant();
        ITaskEscrow.Collection memory task = _settleFor(address(thief));
        thief.prepare(address(escrow), abi.encodeCall(ITaskEscrow.collect, (list(task))), 0);
        escrow.collect{gas: 5_000_000}(list(task));
        assertEq(escrow.earnedBy(performer), FEE - TO_ATTESTERS - TO_AGGREGATOR, "paid once");
        assertEq(balanceOf(address(thief), performer), 0, "by its deposit");
        assertEq(escrow.held(), DEPOSIT + FEE, "held");
    }

    function test_collect_ARequesterCannotRefundWhileItIsAsked() public {
        Reentrant thief = new Reentrant();
        ITaskEscrow.Collection memory task = _settleFor(address(thief));
        thief.act(address(escrow), abi.encodeCall(ITaskEscrow.startRefund, (performer, FEE)));
        thief.prepare(address(escrow), abi.encodeCall(ITaskEscrow.refund, (performer)), 0);
        vm.warp(block.timestamp + REFUND_DELAY);
        escrow.collect{gas: 5_000_000}(list(task));
        assertEq(address(thief).balance, 0, "nothing came back");
        assertEq(escrow.earnedBy(performer), FEE - TO_ATTESTERS - TO_AGGREGATOR, "the performer has it");
    }
}
