// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "./Governed.sol";
import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";

/// @title Kinds of tasks and their terms
/// @notice The owner adds kinds of tasks. Fees, hook and fee calculator of one change after the announced delay, a
/// pause lasts a week at most, and nothing else ever changes.
abstract contract TaskDefinitions is IAttestationCenter, Governed {
    // --- constants ---------------------------------------------------------------------------------------------------

    /// Names of changes; the subject is the definition's id. Fees are one word: performer, attesters, aggregator, 80
    /// bits each from the top of the lower 240. Hook and fee calculator are an address with code, or 0 for none.
    bytes32 private constant FEES = "fees";
    bytes32 private constant HOOK = "hook";
    bytes32 private constant FEE_CALCULATOR = "feeCalculator";

    uint256 private constant MAX_DEADLINE = 30 days;
    /// Bytes of a name, method or CID: whoever pays or slashes a task reads them all.
    uint256 private constant MAX_TEXT = 128;
    uint256 private constant FEE_BITS = 80;
    uint256 private constant MAX_DEFINITIONS = uint256(type(uint16).max) + 1;

    // --- storage -----------------------------------------------------------------------------------------------------

    /// All that settlement reads of a definition, in one slot. `disputeWindow` is never 0, which tells a definition
    /// from none.
    struct Rules {
        address hook;
        uint32 attesterSet;
        uint32 disputeWindow;
        bool waitsForAll;
        bool settlesSingly;
        bool slashesRejected;
        bool slashesOutliers;
    }

    /// What the others read.
    struct Description {
        address feeCalculator;
        uint32 maximumDeadline;
        uint64 pausedUntil;
        Fees fees;
        bytes32 modelHash;
        string name;
        string method;
        string cardCid;
    }

    mapping(uint256 taskDefinitionId => Rules) private _rules;
    mapping(uint256 taskDefinitionId => Description) private _descriptions;
    /// @inheritdoc IAttestationCenter
    uint256 public taskDefinitionCount;

    // --- the owner ---------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function createTaskDefinition(
        string calldata name,
        string calldata method,
        bytes32 modelHash,
        string calldata cardCid,
        TaskTerms calldata terms
    ) external onlyOwner returns (uint16 taskDefinitionId) {
        _requireShort("name", name);
        _requireShort("method", method);
        _requireShort("cardCid", cardCid);
        _requireSound(terms);
        if (taskDefinitionCount == MAX_DEFINITIONS) revert TooManyTaskDefinitions(MAX_DEFINITIONS);
        taskDefinitionId = uint16(taskDefinitionCount++);
        _keep(taskDefinitionId, terms);
        Description storage description = _descriptions[taskDefinitionId];
        description.name = name;
        description.method = method;
        description.modelHash = modelHash;
        description.cardCid = cardCid;
        emit TaskDefinitionCreated(taskDefinitionId, name, method, modelHash, cardCid, terms);
    }

    function _keep(uint16 taskDefinitionId, TaskTerms calldata terms) private {
        _rules[taskDefinitionId] = Rules({
            hook: terms.hook,
            attesterSet: terms.attesterSet,
            disputeWindow: terms.disputeWindow,
            waitsForAll: terms.waitsForAll,
            settlesSingly: terms.settlesSingly,
            slashesRejected: terms.slashesRejected,
            slashesOutliers: terms.slashesOutliers
        });
        Description storage description = _descriptions[taskDefinitionId];
        description.feeCalculator = terms.feeCalculator;
        description.maximumDeadline = terms.maximumDeadline;
        description.fees = terms.fees;
    }

    function _requireShort(string memory field, string calldata text) private pure {
        if (bytes(text).length > MAX_TEXT) revert InvalidTerms(field, bytes(text).length);
    }

    function _requireSound(TaskTerms calldata terms) private view {
        if (terms.maximumDeadline == 0 || terms.maximumDeadline > MAX_DEADLINE) {
            revert InvalidTerms("maximumDeadline", terms.maximumDeadline);
        }
        if (terms.disputeWindow == 0 || terms.disputeWindow > _longestDispute()) {
            revert InvalidTerms("disputeWindow", terms.disputeWindow);
        }
        if (!_isNoneOrCode(terms.hook)) revert InvalidTerms("hook", uint160(terms.hook));
        if (!_isNoneOrCode(terms.feeCalculator)) {
            revert InvalidTerms("feeCalculator", uint160(terms.feeCalculator));
        }
        // Anybody makes sets, and ids count up: a definition of a set to come would be who makes it first.
        if (terms.attesterSet != 0) _requireAttesterSet(terms.attesterSet);
    }

    function _isNoneOrCode(address account) private view returns (bool) {
        return account == address(0) || account.code.length != 0;
    }

    /// @dev The longest dispute that a definition may have.
    function _longestDispute() internal view virtual returns (uint256);

    /// @dev Reverts when there is no such set.
    function _requireAttesterSet(uint32 attesterSet) internal view virtual;

    // --- announced changes -------------------------------------------------------------------------------------------

    /// @inheritdoc Governed
    function _isAllowed(bytes32 name, uint256 subject, uint256 value) internal view override returns (bool) {
        bool isFees = name == FEES;
        if (!isFees && name != HOOK && name != FEE_CALCULATOR) revert UnknownChange(name);
        if (subject >= taskDefinitionCount) return false;
        if (isFees) return value <= type(uint240).max;
        return value <= type(uint160).max && _isNoneOrCode(address(uint160(value)));
    }

    /// @inheritdoc Governed
    function _change(bytes32 name, uint256 subject, uint256 value) internal override {
        if (name == HOOK) _rules[subject].hook = address(uint160(value));
        else if (name == FEE_CALCULATOR) _descriptions[subject].feeCalculator = address(uint160(value));
        else _descriptions[subject].fees = _unpackFees(value);
    }

    function _unpackFees(uint256 packed) private pure returns (Fees memory) {
        return Fees({
            performer: uint80(packed >> (2 * FEE_BITS)),
            attesters: uint80(packed >> FEE_BITS),
            aggregator: uint80(packed)
        });
    }

    // --- the pauser --------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function pauseTaskDefinition(uint16 taskDefinitionId, bool isPaused) external {
        if (msg.sender != pauser) revert NotPauser(msg.sender);
        _rulesOf(taskDefinitionId);
        _descriptions[taskDefinitionId].pausedUntil = isPaused ? uint64(block.timestamp + MAX_PAUSE) : 0;
        emit TaskDefinitionPaused(taskDefinitionId, isPaused);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function taskDefinition(uint16 taskDefinitionId) external view returns (TaskDefinition memory) {
        Rules memory rules = _rulesOf(taskDefinitionId);
        Description storage description = _descriptions[taskDefinitionId];
        return TaskDefinition({
            name: description.name,
            method: description.method,
            modelHash: description.modelHash,
            cardCid: description.cardCid,
            isPaused: block.timestamp < pausedUntil || block.timestamp < description.pausedUntil,
            terms: _termsOf(rules, description)
        });
    }

    function _termsOf(Rules memory rules, Description storage description) private view returns (TaskTerms memory) {
        return TaskTerms({
            fees: description.fees,
            attesterSet: rules.attesterSet,
            maximumDeadline: description.maximumDeadline,
            disputeWindow: rules.disputeWindow,
            waitsForAll: rules.waitsForAll,
            settlesSingly: rules.settlesSingly,
            slashesRejected: rules.slashesRejected,
            slashesOutliers: rules.slashesOutliers,
            hook: rules.hook,
            feeCalculator: description.feeCalculator
        });
    }

    function _rulesOf(uint16 taskDefinitionId) internal view returns (Rules memory rules) {
        rules = _rules[taskDefinitionId];
        if (rules.disputeWindow == 0) revert UnknownTaskDefinition(taskDefinitionId);
    }
}
