// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {Base} from "./Base.sol";
import {RegistryNetwork} from "./RegistryNetwork.sol";

/// @notice A registry in random motion; the model keeps the books and knows which step has to be refused.
contract StakeMotion is RegistryNetwork {
    uint256 public constant IDS = 12;

    struct Book {
        uint256 stake;
        uint256 held;
        uint256 leftAt;
        uint32 leftEpoch;
        uint8 roles;
        bool isGone;
        string gateway;
    }

    mapping(uint256 id => Book) private _books;
    uint256 public slashed;

    /// @dev Starts in the middle of things, so that most steps have something to work on.
    function setUp() public override {
        super.setUp();
        for (uint256 id = 1; id <= 6; ++id) {
            enter(id, uint8(id), id * MINIMUM_STAKE);
        }
        rollNow();
    }

    function bookOf(uint256 id) external view returns (Book memory) {
        return _books[id];
    }

    function all() external view returns (IOperatorRegistry.Operator[] memory) {
        return registry.operatorsFrom(0, type(uint256).max);
    }

    function held() external view returns (uint256 balance, uint256 total, uint256 count) {
        return (address(registry).balance, registry.totalStake(), registry.operatorCount());
    }

    function courtBalance() external view returns (uint256) {
        return address(judge).balance;
    }

    function account(uint256 id) external pure returns (address) {
        return accountOf(id);
    }

    // --- steps -------------------------------------------------------------------------------------------------------

    function _idAt(uint256 seed) private pure returns (uint256) {
        return 1 + seed % IDS;
    }

    function enter(uint256 seed, uint8 roles, uint256 stake) public {
        uint256 id = _idAt(seed);
        Book storage book = _books[id];
        if (book.roles != 0) return;
        book.roles = uint8(bound(roles, 1, 7));
        book.stake = bound(stake, MINIMUM_STAKE, 5 * MINIMUM_STAKE);
        book.gateway = "http://node:8700";
        join(id, book.roles, book.stake);
    }

    function addStake(uint256 seed, uint256 amount) external {
        uint256 id = _idAt(seed);
        Book storage book = _books[id];
        if (book.roles == 0 || book.leftAt != 0) return;
        amount = bound(amount, 0, MINIMUM_STAKE);
        book.stake += amount;
        vm.deal(address(this), amount);
        registry.addStake{value: amount}(accountOf(id), amount);
    }

    function move(uint256 seed, uint256 place) external {
        uint256 id = _idAt(seed);
        Book storage book = _books[id];
        if (book.roles == 0 || book.leftAt != 0) return;
        book.gateway = vm.toString(place);
        vm.prank(accountOf(id));
        registry.updateEndpoints(accountOf(id), "", book.gateway);
    }

    function leave(uint256 seed) public {
        uint256 id = _idAt(seed);
        Book storage book = _books[id];
        if (book.roles == 0 || book.leftAt != 0) return;
        book.leftAt = block.timestamp;
        if (book.roles & ATTESTER != 0) book.leftEpoch = tables.currentEpoch();
        leaveAs(accountOf(id), accountOf(id));
    }

    function withdraw(uint256 seed) public {
        uint256 id = _idAt(seed);
        Book storage book = _books[id];
        bool isDue = book.leftAt != 0 && !book.isGone && book.held == 0
            && block.timestamp >= book.leftAt + UNBONDING_SECONDS
            && (book.leftEpoch == 0 || tables.isExpired(book.leftEpoch));
        uint256 before = accountOf(id).balance;
        vm.prank(accountOf(id));
        try registry.withdraw(accountOf(id)) {
            require(isDue, "too early");
            require(accountOf(id).balance == before + book.stake, "exact wei");
            (book.stake, book.isGone) = (0, true);
        } catch {
            require(!isDue, "held back");
        }
    }

    function hold(uint256 seed) external {
        uint256 id = _idAt(seed);
        if (_books[id].roles == 0) return;
        ++_books[id].held;
        judge.hold(accountOf(id));
    }

    function release(uint256 seed) external {
        uint256 id = _idAt(seed);
        if (_books[id].held == 0) return;
        --_books[id].held;
        judge.release(accountOf(id));
    }

    function slashHeld(uint256 seed, uint256 wad) public {
        uint256 id = _idAt(seed);
        Book storage book = _books[id];
        if (book.held == 0) return;
        wad = bound(wad, 0, 1e18);
        uint256 amount = book.stake * wad / 1e18;
        --book.held;
        book.stake -= amount;
        slashed += amount;
        require(judge.slash(accountOf(id), wad) == amount, "its share");
    }

    /// @dev Slashes are executed, tables are rolled, time passes: then every owner takes what the books say.
    function everybodyLeaves() external {
        for (uint256 id = 1; id <= IDS; ++id) {
            while (_books[id].held != 0) slashHeld(id - 1, 0.1e18);
            leave(id - 1);
        }
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        rollNow();
        vm.warp(block.timestamp + GRACE_SECONDS + 1);
        for (uint256 id = 1; id <= IDS; ++id) {
            withdraw(id - 1);
            require(_books[id].roles == 0 || _books[id].isGone, "stays against its will");
        }
    }

    function wait(uint256 duration) external {
        vm.warp(block.timestamp + bound(duration, 1, 10 days));
    }

    /// @dev The table that it makes has the power of the books, and nobody else's.
    function rollNow() public {
        uint32 epoch = roll();
        (address[] memory members,, uint64[] memory powers) = tables.tableOf(epoch, 0);
        uint256 total = 0;
        for (uint256 i = 0; i < members.length; ++i) {
            total += powers[i];
            if (powers[i] != 0) require(powers[i] == _power(_books[idOf[members[i]]]), "power");
        }
        uint256 expected = 0;
        for (uint256 id = 1; id <= IDS; ++id) {
            expected += _power(_books[id]);
        }
        require(total == expected, "everybody's power, once");
    }

    function _power(Book storage book) private view returns (uint256) {
        bool votes = book.roles & ATTESTER != 0 && book.leftAt == 0 && book.stake >= MINIMUM_STAKE;
        return votes ? book.stake / POWER_UNIT : 0;
    }
}

/// @notice What holds after any steps in any order.
contract StakeInvariantsTest is Base {
    StakeMotion private motion;

    function setUp() public {
        motion = new StakeMotion();
        motion.setUp();
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(motion);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        bytes4[] memory steps = new bytes4[](10);
        steps[0] = StakeMotion.enter.selector;
        steps[1] = StakeMotion.addStake.selector;
        steps[2] = StakeMotion.move.selector;
        steps[3] = StakeMotion.leave.selector;
        steps[4] = StakeMotion.withdraw.selector;
        steps[5] = StakeMotion.hold.selector;
        steps[6] = StakeMotion.release.selector;
        steps[7] = StakeMotion.slashHeld.selector;
        steps[8] = StakeMotion.wait.selector;
        steps[9] = StakeMotion.rollNow.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(motion), steps);
    }

    /// @dev One invariant, not two: each runs through all the steps again.
    function invariant_EveryWeiAndEveryNameIsInTheBooks() public view {
        _requireEveryWeiIsSomebodys();
        _requireTheListIsWhoHasNotWithdrawn();
    }

    /// @dev What an invariant does to the state is forgotten afterwards. Fewer runs: it comes after every step.
    /// forge-config: default.invariant.runs = 8
    function invariant_EverybodyCanLeaveWithWhatIsTheirs() public {
        motion.everybodyLeaves();
        (uint256 balance, uint256 total, uint256 count) = motion.held();
        assertEq(balance, 0, "everything is paid");
        assertEq(total, 0, "total stake");
        assertEq(count, 0, "nobody is listed");
    }

    function _requireEveryWeiIsSomebodys() private view {
        uint256 sum = 0;
        for (uint256 id = 1; id <= motion.IDS(); ++id) {
            sum += motion.bookOf(id).stake;
        }
        (uint256 balance, uint256 total,) = motion.held();
        assertEq(balance, sum, "balance");
        assertEq(total, sum, "total stake");
        assertEq(motion.courtBalance(), motion.slashed(), "the court has what was slashed");
    }

    function _requireTheListIsWhoHasNotWithdrawn() private view {
        IOperatorRegistry.Operator[] memory all = motion.all();
        uint256 expected = 0;
        for (uint256 id = 1; id <= motion.IDS(); ++id) {
            StakeMotion.Book memory book = motion.bookOf(id);
            if (book.roles == 0 || book.isGone) continue;
            ++expected;
            uint256 found = 0;
            for (uint256 i = 0; i < all.length; ++i) {
                if (all[i].operator != motion.account(id)) continue;
                ++found;
                assertEq(all[i].stake, book.stake, "stake");
                assertEq(all[i].roles, book.roles, "roles");
                assertEq(bytes(all[i].gatewayUrl), bytes(book.gateway), "gateway");
            }
            assertEq(found, 1, "listed once");
        }
        assertEq(all.length, expected, "nobody else");
    }
}
