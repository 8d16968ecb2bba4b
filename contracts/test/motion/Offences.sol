// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../../src/interfaces/IOperatorRegistry.sol";
import {ISlashingCourt} from "../../src/interfaces/ISlashingCourt.sol";
import {BLS12381} from "../../src/libraries/BLS12381.sol";
import {Keys} from "../Keys.sol";
import {FeeFlows} from "./FeeFlows.sol";

/// @notice Steps of liars, of who reports them, and of who decides about it.
abstract contract Offences is FeeFlows {
    struct Case {
        bytes32 slashId;
        bytes32 taskId;
        uint256 accused;
        ISlashingCourt.Offence offence;
        ISlashingCourt.State state;
        bool isVetoed;
        uint256 executableAt;
        uint256 vetoDueAt;
        address harmed;
        uint256 value;
        /// An encoded IAttestationCenter.TaskRequest.
        bytes request;
    }

    uint256 private constant PRICE = 9 gwei;
    uint256 private constant VETOES = 3;
    uint256 private constant VETO_PERIOD = 30 days;

    Case[] internal cases;
    mapping(bytes32 taskId => uint256) private _compensated;
    mapping(address account => uint256) internal owed;
    uint256 internal totalOwed;
    uint256 public forcedIn;
    uint256[] private _vetoesAt;

    // --- offences ----------------------------------------------------------------------------------------------------

    function queueRejected(IAttestationCenter.TaskRequest memory request, bytes32 taskId) internal override {
        open(ISlashingCourt.Offence.REJECTED_TASK, taskId, idOf[request.performer], request);
    }

    function open(
        ISlashingCourt.Offence offence,
        bytes32 taskId,
        uint256 accused,
        IAttestationCenter.TaskRequest memory request
    ) private returns (Case storage made) {
        made = cases.push();
        (made.offence, made.state) = (offence, ISlashingCourt.State.WAITING);
        (made.taskId, made.accused) = (taskId, accused);
        made.slashId = keccak256(abi.encode(offence, taskId, accountOf(accused)));
        made.executableAt = block.timestamp + DISPUTE_WINDOW;
        made.request = abi.encode(request);
        ++books[accused].held;
    }

    /// @dev Two verdicts on one info, by one who had power in that table. Reported twice: it is one offence.
    function equivocate(uint256 seed) external {
        IAttestationCenter.TaskRequest memory request = newRequest(seed);
        IAttestationCenter.TaskInfo memory info = infoOf(request, seed);
        (address[] memory members, bytes[] memory keys, uint64[] memory powers) = tables.tableOf(info.epoch, 0);
        uint256 seat = seed % members.length;
        if (powers[seat] == 0) return;
        bytes memory message = reportOf(info, uint16(seat), secretOf[keccak256(keys[seat])], INVALID);
        attempt(accountOf(STRANGER_ID), address(court), message, 0);
        attempt(accountOf(STRANGER_ID), address(court), message, ISlashingCourt.AlreadyQueued.selector);
        open(ISlashingCourt.Offence.EQUIVOCATION, info.taskId, idOf[members[seat]], request);
        ++done["equivocation"];
    }

    /// @dev Who voted once is not to be accused.
    function accuseTheHonest(uint256 seed) external {
        IAttestationCenter.TaskInfo memory info = infoOf(newRequest(seed), seed);
        (, bytes[] memory keys,) = tables.tableOf(info.epoch, 0);
        uint16 seat = uint16(seed % keys.length);
        bytes memory message = reportOf(info, seat, secretOf[keccak256(keys[seat])], VALID);
        attempt(accountOf(STRANGER_ID), address(court), message, ISlashingCourt.NoEquivocation.selector);
    }

    function reportOf(IAttestationCenter.TaskInfo memory info, uint16 seat, uint256 secret, uint8 second)
        private
        view
        returns (bytes memory)
    {
        bytes32 infoHash = center.taskInfoHash(info);
        bytes memory sum = Keys.add(
            Keys.sign(secret, center.voteDigest(infoHash, VALID), BLS12381.SIGNATURE_TAG),
            Keys.sign(secret, center.voteDigest(infoHash, second), BLS12381.SIGNATURE_TAG)
        );
        return abi.encodeCall(
            ISlashingCourt.reportEquivocation,
            (ISlashingCourt.SignedVote(info, VALID, seat), ISlashingCourt.SignedVote(info, second, seat), sum)
        );
    }

    /// @dev Of a request by somebody, or by the performer itself, as large as it likes.
    function breakPromise(uint256 seed) external {
        IAttestationCenter.TaskRequest memory request = newRequest(seed);
        bool isMissed = !isRare(seed, 8);
        if (isMissed) request.deadline = uint64(block.timestamp - 1 hours - 1);
        if (seed & 1 == 0) (request.requester, request.fee) = (request.performer, type(uint256).max);
        bytes32 taskId = center.taskRequestHash(request);
        uint256 accused = idOf[request.performer];
        bytes4 refusal = 0;
        if (!isMissed) refusal = ISlashingCourt.DeadlineNotMissed.selector;
        else if (books[accused].roles == 0) refusal = IOperatorRegistry.NotRegistered.selector;
        bytes memory promise_ = ecdsaSignature(accused, center.promiseDigest(taskId));
        bytes memory message = abi.encodeCall(ISlashingCourt.reportMissedDeadline, (request, promise_));
        attempt(accountOf(STRANGER_ID), address(court), message, refusal);
        if (refusal != 0) return;
        name(open(ISlashingCourt.Offence.MISSED_DEADLINE, taskId, accused, request), request);
        ++done["broken promise"];
    }

    // --- decisions ---------------------------------------------------------------------------------------------------

    /// @dev One that waits, if there is any and it is looked for.
    function caseAt(uint256 seed) private view returns (Case storage found) {
        found = cases[seed % cases.length];
        for (uint256 i = 1; seed & 0xf00 != 0 && i < cases.length && !isWaiting(found); ++i) {
            found = cases[(seed % cases.length + i) % cases.length];
        }
    }

    function isWaiting(Case storage which) internal view returns (bool) {
        return which.state == ISlashingCourt.State.WAITING;
    }

    function nameHarmed(uint256 seed) external {
        if (cases.length == 0) return;
        Case storage found = caseAt(seed);
        IAttestationCenter.TaskRequest memory request = abi.decode(found.request, (IAttestationCenter.TaskRequest));
        bool isOther = isRare(seed, 6);
        if (isOther) request.requester = accountOf(STRANGER_ID);
        bytes4 refusal = 0;
        if (!isWaiting(found)) refusal = ISlashingCourt.NotWaiting.selector;
        else if (found.harmed != address(0)) refusal = ISlashingCourt.HarmedAlreadyNamed.selector;
        else if (isOther) refusal = ISlashingCourt.RequestMismatch.selector;
        bytes memory message = abi.encodeCall(ISlashingCourt.nameHarmed, (found.slashId, request));
        attempt(accountOf(STRANGER_ID), address(court), message, refusal);
        if (refusal == 0) name(found, request);
    }

    function name(Case storage found, IAttestationCenter.TaskRequest memory request) private {
        found.harmed = request.requester;
        found.value = request.fee < PRICE ? request.fee : PRICE;
    }

    function execute(uint256 seed) external {
        if (cases.length != 0) executeCase(caseAt(seed));
    }

    function executeCase(Case storage found) internal {
        bytes4 refusal = 0;
        if (!isWaiting(found)) refusal = ISlashingCourt.NotWaiting.selector;
        else if (block.timestamp < found.executableAt) refusal = ISlashingCourt.SlashNotDue.selector;
        else if (found.vetoDueAt != 0) refusal = ISlashingCourt.VetoPending.selector;
        bytes memory message = abi.encodeCall(ISlashingCourt.executeSlash, (found.slashId));
        attempt(accountOf(STRANGER_ID), address(court), message, refusal);
        if (refusal != 0) return;
        close(found, ISlashingCourt.State.EXECUTED);
        slash(found);
        ++done["slash"];
    }

    function slash(Case storage found) private {
        Book storage book = books[found.accused];
        uint256 power = powerOf(found.accused);
        uint256 amount = found.offence == ISlashingCourt.Offence.EQUIVOCATION ? book.stake : book.stake / 10;
        book.stake -= amount;
        if (powerOf(found.accused) != power) isDue = true;
        uint256 left = found.value > _compensated[found.taskId] ? found.value - _compensated[found.taskId] : 0;
        uint256 compensation = amount < left ? amount : left;
        _compensated[found.taskId] += compensation;
        if (compensation != 0) owed[found.harmed] += compensation;
        owed[vault] += amount - compensation;
        totalOwed += amount;
    }

    function close(Case storage found, ISlashingCourt.State state) private {
        found.state = state;
        --books[found.accused].held;
    }

    /// @dev By the operators: the slash, or the veto of it.
    function certifyDecision(uint256 seed, uint256 signers) external {
        if (cases.length == 0) return;
        Case storage found = caseAt(seed);
        bool isCancel = seed & 0x1000 == 0;
        uint32 of_ = epochAt(seed);
        signers = signersAt(signers);
        bytes4 refusal = quorumRefusal(of_, 0, true, signers);
        if (!isWaiting(found)) refusal = ISlashingCourt.NotWaiting.selector;
        else if (!isCancel && found.vetoDueAt == 0) refusal = ISlashingCourt.NoVeto.selector;
        attempt(accountOf(STRANGER_ID), address(court), decision(found.slashId, isCancel, of_, signers), refusal);
        if (refusal != 0) return;
        if (isCancel) close(found, ISlashingCourt.State.CANCELLED);
        else found.vetoDueAt = 0;
        ++done[isCancel ? bytes32("cancel") : bytes32("overrule")];
    }

    function decision(bytes32 slashId, bool isCancel, uint32 of_, uint256 signers) private view returns (bytes memory) {
        bytes32 digest = isCancel ? court.cancelDigest(slashId) : court.overruleDigest(slashId);
        (bytes memory signature, bytes memory missing) = vote(digest, of_, 0, true, signers);
        if (isCancel) return abi.encodeCall(ISlashingCourt.cancelSlash, (slashId, of_, signature, missing));
        return abi.encodeCall(ISlashingCourt.overruleVeto, (slashId, of_, signature, missing));
    }

    function announceVeto(uint256 seed) external {
        if (cases.length == 0) return;
        Case storage found = caseAt(seed);
        bool isStranger = isRare(seed, 6);
        bytes4 refusal = isStranger ? ISlashingCourt.OnlyGuardian.selector : vetoRefusal(found);
        address from = isStranger ? accountOf(STRANGER_ID) : owner;
        attempt(from, address(court), abi.encodeCall(ISlashingCourt.announceVeto, (found.slashId)), refusal);
        if (refusal != 0) return;
        (found.isVetoed, found.vetoDueAt) = (true, block.timestamp + VETO_DELAY);
        _vetoesAt.push(block.timestamp);
        ++done["veto"];
    }

    function vetoRefusal(Case storage found) private view returns (bytes4) {
        if (!isWaiting(found)) return ISlashingCourt.NotWaiting.selector;
        if (found.isVetoed) return ISlashingCourt.AlreadyVetoed.selector;
        if (block.timestamp >= found.executableAt) return ISlashingCourt.TooLateForVeto.selector;
        uint256 made = _vetoesAt.length;
        bool isUsedUp = made >= VETOES && block.timestamp < _vetoesAt[made - VETOES] + VETO_PERIOD;
        return isUsedUp ? ISlashingCourt.VetoesUsedUp.selector : bytes4(0);
    }

    function executeVeto(uint256 seed) external {
        if (cases.length != 0) carryOutVeto(caseAt(seed));
    }

    function carryOutVeto(Case storage found) internal {
        bytes4 refusal = 0;
        if (!isWaiting(found)) refusal = ISlashingCourt.NotWaiting.selector;
        else if (found.vetoDueAt == 0) refusal = ISlashingCourt.NoVeto.selector;
        else if (block.timestamp < found.vetoDueAt) refusal = ISlashingCourt.VetoNotDue.selector;
        bytes memory message = abi.encodeCall(ISlashingCourt.executeVeto, (found.slashId));
        attempt(accountOf(STRANGER_ID), address(court), message, refusal);
        if (refusal == 0) close(found, ISlashingCourt.State.CANCELLED);
    }

    // --- coin --------------------------------------------------------------------------------------------------------

    function pay(uint256 seed) external {
        payOwed(cases.length == 0 || seed & 1 == 0 ? vault : cases[(seed >> 1) % cases.length].harmed);
    }

    function payOwed(address account) internal {
        bytes4 refusal = owed[account] == 0 ? ISlashingCourt.NothingOwed.selector : bytes4(0);
        attempt(accountOf(STRANGER_ID), address(court), abi.encodeCall(ISlashingCourt.pay, (account)), refusal);
        if (refusal != 0) return;
        goesTo(account, owed[account]);
        totalOwed -= owed[account];
        owed[account] = 0;
        ++done["pay"];
    }

    /// @dev As who destroys a contract can: it must be nobody's, and change nothing.
    function forceCoin(uint256 amount) external {
        amount = bound(amount, 1, 1 ether);
        forcedIn += amount;
        vm.deal(address(court), address(court).balance + amount);
        attempt(accountOf(STRANGER_ID), address(court), amount, "", ISlashingCourt.OnlyOperators.selector);
    }
}
