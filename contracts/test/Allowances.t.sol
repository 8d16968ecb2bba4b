// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {RegistryNetwork} from "./RegistryNetwork.sol";

/// @notice Registration by ticket. Branches: tree/allowance.tree.
contract AllowancesTest is RegistryNetwork {
    uint256 private constant ID = 1;
    uint256 private constant SIGNER = 77;
    bytes32 private constant NAME = "allowlistSigner";
    address private account;

    function setUp() public override {
        super.setUp();
        account = accountOf(ID);
        vm.deal(account, 100 ether);
        _setSigner(accountOf(SIGNER));
    }

    function _setSigner(address signer) private {
        Governed governed = Governed(address(registry));
        vm.prank(owner);
        governed.announceChange(NAME, 0, uint160(signer));
        vm.warp(block.timestamp + CHANGE_DELAY);
        governed.makeChange(NAME, 0);
    }

    function _ticket(uint256 signer, address operator, uint256 nonce, uint64 expiry)
        private
        view
        returns (IOperatorRegistry.Allowance memory)
    {
        bytes memory signature = ecdsaSignature(signer, registry.allowanceDigest(operator, nonce, expiry));
        return IOperatorRegistry.Allowance(nonce, expiry, signature);
    }

    function _register(uint256 id, IOperatorRegistry.Allowance memory ticket, bytes memory refusal) private {
        IOperatorRegistry.Registration memory made = registration(id, PERFORMER, MINIMUM_STAKE);
        made.allowance = ticket;
        vm.deal(accountOf(id), MINIMUM_STAKE);
        vm.prank(accountOf(id));
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.register{value: MINIMUM_STAKE}(made);
    }

    function _later() private view returns (uint64) {
        return uint64(block.timestamp) + 1 days;
    }

    function test_allowance_DigestIsEip712() public view {
        bytes32 structHash = keccak256(
            abi.encode(keccak256("Allowance(address operator,uint256 nonce,uint64 expiry)"), account, 7, uint64(9))
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", registry.domainSeparator(), structHash));
        assertEq(registry.allowanceDigest(account, 7, 9), digest, "digest");
    }

    function test_allowance_LetsOneOperatorIn() public {
        assertEq(registry.allowlistSigner(), accountOf(SIGNER), "signer");
        _register(ID, _ticket(SIGNER, account, 0, _later()), "");
        assertEq(registry.rolesOf(account), PERFORMER, "registered");
    }

    function test_allowance_IsForTheOperatorNotForWhoPays() public {
        address patron = accountOf(9);
        IOperatorRegistry.Registration memory made = registrationBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        made.allowance = _ticket(SIGNER, patron, 0, _later());
        vm.deal(patron, MINIMUM_STAKE);
        vm.prank(patron);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidAllowance.selector, account));
        registry.register{value: MINIMUM_STAKE}(made);
        made.allowance = _ticket(SIGNER, account, 0, _later());
        vm.prank(patron);
        registry.register{value: MINIMUM_STAKE}(made);
        assertEq(registry.operatorOf(account).owner, patron, "owner");
    }

    function test_allowance_RefusesAnotherSignature() public {
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.InvalidAllowance.selector, account);
        _register(ID, _ticket(SIGNER + 1, account, 0, _later()), refusal);
        _register(ID, _ticket(SIGNER, accountOf(2), 0, _later()), refusal);
        IOperatorRegistry.Allowance memory ticket = _ticket(SIGNER, account, 0, _later());
        ticket.nonce = 1;
        _register(ID, ticket, refusal);
        ticket = _ticket(SIGNER, account, 0, _later());
        ++ticket.expiry;
        _register(ID, ticket, refusal);
        ticket.signature = "";
        _register(ID, ticket, refusal);
    }

    function test_allowance_EndsAtItsExpiry() public {
        uint64 expiry = _later();
        IOperatorRegistry.Allowance memory ticket = _ticket(SIGNER, account, 0, expiry);
        vm.warp(expiry + 1);
        _register(ID, ticket, abi.encodeWithSelector(IOperatorRegistry.AllowanceExpired.selector, expiry));
        vm.warp(expiry);
        _register(ID, ticket, "");
    }

    function test_allowance_ServesOnce() public {
        for (uint256 i = 0; i < 3; ++i) {
            // Neighbours in a word, and the first of the next one.
            uint256 nonce = i == 2 ? 256 : i;
            uint256 id = 10 + i;
            _register(id, _ticket(SIGNER, accountOf(id), nonce, _later()), "");
            bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.AllowanceUsed.selector, nonce);
            _register(20 + i, _ticket(SIGNER, accountOf(20 + i), nonce, _later()), refusal);
        }
    }

    function testFuzz_allowance_NoncesAreApart(uint256 first, uint256 second) public {
        if (first == second) return;
        _register(1, _ticket(SIGNER, accountOf(1), first, _later()), "");
        _register(2, _ticket(SIGNER, accountOf(2), second, _later()), "");
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.AllowanceUsed.selector, first);
        _register(3, _ticket(SIGNER, accountOf(3), first, _later()), refusal);
    }

    function test_allowance_NoncesAreTheSigners() public {
        _register(1, _ticket(SIGNER, accountOf(1), 0, _later()), "");
        _setSigner(accountOf(SIGNER + 1));
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.InvalidAllowance.selector, accountOf(2));
        _register(2, _ticket(SIGNER, accountOf(2), 1, _later()), refusal);
        _register(2, _ticket(SIGNER + 1, accountOf(2), 0, _later()), "");
    }

    function test_allowance_OfAFailedRegistrationIsNotUsed() public {
        IOperatorRegistry.Allowance memory ticket = _ticket(SIGNER, account, 0, _later());
        IOperatorRegistry.Registration memory made = registration(ID, 0, MINIMUM_STAKE);
        made.allowance = ticket;
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidRoles.selector, 0));
        registry.register{value: MINIMUM_STAKE}(made);
        _register(ID, ticket, "");
    }

    function test_allowance_MayBeSignedByAContract() public {
        TicketOffice office = new TicketOffice();
        _setSigner(address(office));
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.InvalidAllowance.selector, account);
        _register(ID, _ticket(SIGNER, account, 0, _later()), refusal);
        office.allow(registry.allowanceDigest(account, 0, _later()));
        _register(ID, _ticket(SIGNER, account, 0, _later()), "");
    }

    function test_allowance_IsIgnoredWhileRegistrationIsOpen() public {
        IOperatorRegistry.Allowance memory expired = _ticket(SIGNER + 1, account, 0, 1);
        _setSigner(address(0));
        _register(ID, expired, "");
        _register(2, expired, "");
    }
}

/// Answers ERC-1271 for digests that it was shown.
contract TicketOffice {
    mapping(bytes32 digest => bool) private _isAllowed;

    function allow(bytes32 digest) external {
        _isAllowed[digest] = true;
    }

    function isValidSignature(bytes32 digest, bytes calldata) external view returns (bytes4) {
        return _isAllowed[digest] ? this.isValidSignature.selector : bytes4(0xffffffff);
    }
}
