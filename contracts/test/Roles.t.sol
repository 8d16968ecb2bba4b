// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

import {Governed} from "../src/Governed.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "../src/interfaces/IOperatorSource.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {Network} from "./Network.sol";

/// @notice A table of every restricted function of the five contracts: nobody but the named role can call it.
contract RolesTest is Network {
    struct Rule {
        address target;
        bytes message;
        address role;
        bytes4 refusal;
    }

    uint256 private constant OPERATOR_ID = 1;
    uint256 private constant PATRON_ID = 2;

    address private operator;
    address private patron;
    Rule[] private _rules;

    /// @dev An operator that sits, works and belongs to somebody else.
    function setUp() public override {
        super.setUp();
        (operator, patron) = (accountOf(OPERATOR_ID), accountOf(PATRON_ID));
        IOperatorRegistry.Registration memory made = registration(OPERATOR_ID, PERFORMER | ATTESTER, MINIMUM_STAKE);
        made.operator = operator;
        made.consent = ecdsaSignature(OPERATOR_ID, registry.consentDigest(operator, patron));
        vm.deal(patron, MINIMUM_STAKE);
        vm.prank(patron);
        registry.register{value: MINIMUM_STAKE}(made);
        _listTables();
        _listRegistry();
        _listCenter();
        _listCourt();
        _listGoverned(address(registry));
        _listGoverned(address(center));
        _listGoverned(address(escrow));
        _listGoverned(address(court));
    }

    function _add(address target, bytes memory message, address role, bytes4 refusal) private {
        _rules.push(Rule(target, message, role, refusal));
    }

    function _listTables() private {
        (address target, address role) = (address(tables), address(registry));
        bytes4 refusal = IEpochTables.OnlySource.selector;
        _add(target, abi.encodeCall(IEpochTables.seat, (operator, patron, "", "", 1)), role, refusal);
        _add(target, abi.encodeCall(IEpochTables.rotateKey, (operator, "", "")), role, refusal);
        _add(target, abi.encodeCall(IEpochTables.setPower, (operator, 1, true)), role, refusal);
        _add(target, abi.encodeCall(IEpochTables.unseat, (operator)), role, refusal);
        bytes memory message = abi.encodeCall(IEpochTables.setSource, (patron));
        _add(target, message, address(this), IEpochTables.OnlyDeployer.selector);
    }

    function _listRegistry() private {
        address target = address(registry);
        bytes4 refusal = IOperatorSource.OnlyCourt.selector;
        _add(target, abi.encodeCall(IOperatorSource.holdExit, (operator)), address(court), refusal);
        _add(target, abi.encodeCall(IOperatorSource.releaseExit, (operator)), address(court), refusal);
        _add(target, abi.encodeCall(IOperatorSource.slash, (operator, 1e18)), address(court), refusal);
        bytes memory message = abi.encodeCall(IOperatorRegistry.setCourt, (address(court)));
        _add(target, message, address(this), IOperatorRegistry.OnlyDeployer.selector);

        refusal = IOperatorRegistry.OnlyOwner.selector;
        _add(target, abi.encodeCall(IOperatorRegistry.leave, (operator)), patron, refusal);
        _add(target, abi.encodeCall(IOperatorRegistry.withdraw, (operator)), patron, refusal);
        _add(target, abi.encodeCall(IOperatorRegistry.setRewardsReceiver, (operator, patron)), patron, refusal);
    }

    function _listCenter() private {
        address target = address(center);
        bytes memory message = abi.encodeCall(IAttestationCenter.setCourt, (address(court)));
        _add(target, message, address(this), IAttestationCenter.OnlyDeployer.selector);
        message = abi.encodeCall(IAttestationCenter.createTaskDefinition, ("", "", 0, "", terms()));
        _add(target, message, owner, Ownable.OwnableUnauthorizedAccount.selector);
        message = abi.encodeCall(IAttestationCenter.pauseTaskDefinition, (0, true));
        _add(target, message, owner, Governed.NotPauser.selector);
    }

    function _listCourt() private {
        address target = address(court);
        bytes memory message = abi.encodeCall(ISlashingCourt.queueRejected, ("task", operator, 1));
        _add(target, message, address(center), ISlashingCourt.OnlyCenter.selector);
        message = abi.encodeCall(ISlashingCourt.announceVeto, ("slash"));
        _add(target, message, owner, ISlashingCourt.OnlyGuardian.selector);
        _add(target, "", address(registry), ISlashingCourt.OnlyOperators.selector); // coin
    }

    function _listGoverned(address target) private {
        bytes4 refusal = Ownable.OwnableUnauthorizedAccount.selector;
        _add(target, abi.encodeCall(Governed.announceChange, ("pauser", 0, 1)), owner, refusal);
        _add(target, abi.encodeCall(Governed.withdrawChange, ("pauser", 0)), owner, refusal);
        _add(target, abi.encodeCall(Ownable.transferOwnership, (patron)), owner, refusal);
        _add(target, abi.encodeCall(Ownable2Step.acceptOwnership, ()), patron, refusal);
        _add(target, abi.encodeCall(Governed.pause, (true)), owner, Governed.NotPauser.selector);
        _add(target, abi.encodeCall(Ownable.renounceOwnership, ()), owner, refusal);
    }

    function _callers() private view returns (address[11] memory) {
        return [
            address(this),
            owner,
            vault,
            operator,
            patron,
            address(tables),
            address(registry),
            address(center),
            address(escrow),
            address(court),
            address(0xbeef)
        ];
    }

    function test_roles_NobodyElseCan() public {
        address[11] memory callers = _callers();
        for (uint256 i = 0; i < _rules.length; ++i) {
            Rule memory rule = _rules[i];
            for (uint256 j = 0; j < callers.length; ++j) {
                if (callers[j] == rule.role) continue;
                vm.prank(callers[j]);
                (bool done, bytes memory answer) = rule.target.call(rule.message);
                bytes memory expected = rule.refusal == IOperatorRegistry.OnlyOwner.selector
                    ? abi.encodeWithSelector(rule.refusal, callers[j], patron)
                    : abi.encodeWithSelector(rule.refusal, callers[j]);
                assertTrue(!done, "somebody else could");
                assertEq(answer, expected, "refused as who it is");
            }
        }
    }

    /// @dev Or the table would show nothing. Some calls fail all the same, of another reason.
    function test_roles_TheNamedOneIsNotRefusedAsAStranger() public {
        for (uint256 i = 0; i < _rules.length; ++i) {
            Rule memory rule = _rules[i];
            uint256 state = vm.snapshotState();
            if (bytes4(rule.message) == Ownable2Step.acceptOwnership.selector) {
                vm.prank(owner);
                Ownable2Step(rule.target).transferOwnership(patron);
            }
            vm.prank(rule.role);
            (bool done, bytes memory answer) = rule.target.call(rule.message);
            assertTrue(done || bytes4(answer) != rule.refusal, "the role was refused");
            assertTrue(vm.revertToState(state), "as before");
        }
    }

    /// @dev A seat's key and an operator's endpoints are its owner's and its own.
    function test_roles_OwnerAndOperatorChangeAProfile() public {
        address[11] memory callers = _callers();
        bytes[2] memory messages = [
            abi.encodeCall(IOperatorRegistry.updateEndpoints, (operator, "", "http://here")),
            abi.encodeCall(IOperatorRegistry.rotateVoteKey, (operator, "", ""))
        ];
        for (uint256 i = 0; i < messages.length; ++i) {
            for (uint256 j = 0; j < callers.length; ++j) {
                vm.prank(callers[j]);
                (bool done, bytes memory answer) = address(registry).call(messages[i]);
                bool isRefused = !done && bytes4(answer) == IOperatorRegistry.OnlyOwner.selector;
                assertTrue(isRefused == (callers[j] != operator && callers[j] != patron), "owner or operator");
            }
        }
    }
}
